"""Tensor programs, reductions and softmax against their references: any strides, nothing else written."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from intaglio.compiler.errors import CodegenError
from intaglio.kernels.catalogue import kernel_from_json
from intaglio.kernels.reduction.reduction import OPS, Reduction
from intaglio.kernels.reduction.reference import reduction
from intaglio.kernels.row_program.program import Step
from intaglio.kernels.softmax.reference import softmax
from intaglio.kernels.softmax.softmax import Softmax
from intaglio.kernels.tensor_program.operand import Operand
from intaglio.kernels.tensor_program.program import TensorProgram
from intaglio.kernels.tensor_program.reference import places, tensor_program

INPUTS = (Step("input"), Step("input", index=1))
SUM = (*INPUTS, Step("add", (0, 1)), Step("tanh", (2,)))
COPY = (Step("input"),)
PROGRAMS = {
    "rows": TensorProgram((3, 50), (Operand((50, 1)), Operand((0, 1))), SUM, Operand((50, 1))),
    "columns": TensorProgram((40, 17), (Operand((17, 1)), Operand((1, 0))), SUM, Operand((17, 1))),
    "transposed": TensorProgram((9, 33), (Operand((1, 9)), Operand((33, 1))), SUM, Operand((33, 1))),
    "long": TensorProgram((5, 1001), (Operand((1001, 1)), Operand((0, 0))), SUM, Operand((1001, 1))),
    "images": TensorProgram(
        (2, 20, 5, 7),
        (Operand((32 * 35, 1, 32 * 7, 32)), Operand((0, 1, 0, 0))),
        SUM,
        Operand((32 * 35, 1, 32 * 7, 32)),
    ),
    "padded images": TensorProgram(
        (35, 32), (Operand((32, 1)), Operand((0, 0))), SUM, Operand((32, 1)), zeros=12
    ),
    "into columns": TensorProgram(
        (4, 30), (Operand((30, 1)), Operand((0, 1))), SUM, Operand((1, 5), offset=3)
    ),
    "one": TensorProgram((1, 1), (Operand((1, 1)), Operand((0, 0))), SUM, Operand((1, 1))),
    "no axes": TensorProgram((), (Operand(()), Operand((), offset=2)), SUM, Operand(())),
    "many axes": TensorProgram(
        (2, 3, 4, 5, 6),
        (Operand((360, 0, 30, 6, 1)), Operand((0, 20, 5, 1, 0))),
        SUM,
        Operand((360, 120, 30, 6, 1)),
    ),
    "to booleans": TensorProgram(
        (7, 40),
        (Operand((40, 1)), Operand((0, 1))),
        (*INPUTS, Step("less", (0, 1))),
        Operand((40, 1), "uint8"),
    ),
    "integers": TensorProgram(
        (6, 20), (Operand((20, 1), "int64"), Operand((0, 1), "uint8")), SUM[:3], Operand((20, 1), "int64")
    ),
    "small integers": TensorProgram((50,), (Operand((2,), "int8"),), COPY, Operand((1,), "int32")),
}
OPERATIONS = (
    *(Step(op, (0,)) for op in ("not", "floor", "ceil", "round", "sign", "exp", "gelu_erf")),
    *(Step(op, (0, 1)) for op in ("equal", "less", "less_equal", "maximum", "divide")),
    Step("where", (0, 1, 2)),
    Step("power_of_number", (0,), number=3.0),
)


def some(element, size, random):
    """Whole numbers and halves, of which many are equal; no zeros of odd sign."""
    values = random.integers(0 if element == "uint8" else -9, 10, size)
    return (values / 2).astype(np.float32) if element == "float32" else values.astype(element)


def made(program, random):
    """Buffers of a call, and the result expected in it."""
    inputs = [some(one.element, one.extent(program.extents), random) for one in program.inputs]
    buffers = {f"input{i}": one for i, one in enumerate(inputs)}
    beside = np.nan if program.result.element == "float32" else 99
    buffers["result"] = np.full(program.result.extent(program.extents) + 3, beside, program.result.element)
    expected = buffers["result"].astype(np.float64)
    values = tensor_program(program, inputs)
    if program.zeros:
        values[..., -program.zeros :] = 0
    expected[places(program.extents, program.result)] = values
    return buffers, expected


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name, run_kernel, random):
    """Every kind of stride and element, with one worker and two."""
    program = PROGRAMS[name]
    for workers in (1, 2):
        buffers, expected = made(program, random)
        found = run_kernel(program, buffers, workers=workers)["result"]
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("step", OPERATIONS, ids=lambda step: step.op)
def test_operations(step, run_kernel, random):
    """Every operation beside those that the tests of row programs cover."""
    inputs = tuple(Operand((1,)) for _ in range(3))
    leaves = tuple(Step("input", index=i) for i in range(3))
    program = TensorProgram((77,), inputs, (*leaves, step), Operand((1,)))
    buffers = {f"input{i}": some("float32", 77, random) for i in range(3)}
    buffers["result"] = np.full(80, np.nan, np.float32)
    if step.op == "divide":
        buffers["input1"][...] = 4
    expected = np.full(80, np.nan)
    expected[:77] = tensor_program(program, [buffers[f"input{i}"] for i in range(3)])
    found = run_kernel(program, buffers)["result"]
    np.testing.assert_allclose(found, expected, rtol=3e-6, atol=2e-6)


def test_in_place(run_kernel, random):
    """The result in place of an input."""
    program = PROGRAMS["long"]
    buffers, expected = made(program, random)
    alias = {"result": "input0"}
    found = run_kernel(program, buffers, workers=2, alias=alias)["result"]
    np.testing.assert_allclose(found, expected[:-3], rtol=2e-6, atol=2e-6)


REDUCTIONS = {
    "last": ((6, 83), (83, 1), (1, 0)),
    "first": ((83, 6), (6, 1), (0, 1)),
    "middle": ((3, 11, 37), (407, 37, 1), (37, 0, 1)),
    "ends": ((5, 40, 6), (240, 6, 1), (0, 1, 0)),
    "all": ((7, 21), (21, 1), (0, 0)),
    "nothing": ((2, 21), (21, 1), (21, 1)),
    "images": ((2, 20, 5, 7), (1120, 1, 224, 32), (20, 1, 0, 0)),
    "transposed": ((30, 9), (1, 30), (0, 1)),
    "into columns": ((19, 18, 5), (90, 5, 1), (1, 19, 0)),
}


@pytest.mark.parametrize(
    ("name", "op"),
    [(name, "mean") for name in REDUCTIONS] + [(name, op) for name in ("last", "middle") for op in OPS],
)
def test_reductions(name, op, run_kernel, random):
    """Every kind of axis and operation."""
    extents, source, target = REDUCTIONS[name]
    kernel = Reduction(op, extents, Operand(source), Operand(target))
    size = kernel.result.extent(extents)
    values = random.normal(size=kernel.input.extent(extents)).astype(np.float32)
    expected = np.full(size + 3, np.nan)
    kept = [1 if i in kernel.reduced else one for i, one in enumerate(extents)]
    expected[places(kept, kernel.result)] = reduction(kernel, values)
    for workers in (1, 2):
        buffers = {"input": values, "result": np.full(size + 3, np.nan, np.float32)}
        found = run_kernel(kernel, buffers, workers=workers)["result"]
        np.testing.assert_allclose(found, expected, rtol=3e-6, atol=3e-6)


def test_reduction_of_integers(run_kernel, random):
    """Other elements become float32."""
    kernel = Reduction("max", (3, 50), Operand((50, 1), "int64"), Operand((1, 0)))
    values = random.integers(-99, 99, (3, 50))
    found = run_kernel(kernel, {"input": values, "result": np.full(3, np.nan, np.float32)})["result"]
    np.testing.assert_array_equal(found, values.max(axis=1))


@pytest.mark.parametrize(
    "kernel",
    [
        Softmax(3, 40),
        Softmax(2, 1),
        Softmax(5, 37, stride=48, zeros=11),
        Softmax(2, 9, 35),
        Softmax(1, 30, 16),
        Softmax(4, 3, 5, stride=20),
        Softmax(3, 100, logarithm=True),
        Softmax(2, 9, 17, logarithm=True),
    ],
)
def test_softmax(kernel, run_kernel, random):
    """Rows and columns, with room after them."""
    source = np.full((kernel.outer, kernel.row), np.nan, np.float32)
    size = kernel.extent * kernel.inner
    source[:, :size] = random.normal(size=(kernel.outer, size)) * 30
    expected = np.full((kernel.outer, kernel.row), np.nan)
    expected[:, :size] = softmax(kernel, source.astype(np.float64)).reshape(kernel.outer, size)
    expected[:, size : size + kernel.zeros] = 0
    for workers in (1, 2):
        buffers = {"source": source, "result": np.full_like(source, np.nan)}
        found = run_kernel(kernel, buffers, workers=workers)["result"]
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
    found = run_kernel(kernel, {"source": source}, alias={"result": "source"})["result"]
    np.testing.assert_allclose(found[:, :size], expected[:, :size], rtol=2e-5, atol=1e-6)


def test_masked_softmax(run_kernel):
    """Elements of -∞ have no share."""
    source = np.full((1, 20), -np.inf, np.float32)
    source[0, 3:5] = 1.0
    found = run_kernel(Softmax(1, 20), {"source": source, "result": np.full_like(source, np.nan)})["result"]
    np.testing.assert_allclose(found[0, 3:5], 0.5, rtol=1e-6)
    assert found.sum() == pytest.approx(1.0)


def test_catalogue():
    """All three survive JSON."""
    for kernel in (
        PROGRAMS["images"],
        Reduction("max", (3, 4), Operand((4, 1)), Operand((1, 0))),
        Softmax(3, 4),
    ):
        values = json.loads(json.dumps(dataclasses.asdict(kernel)))
        assert kernel_from_json(type(kernel).__name__, values) == kernel


def test_bad_parameters():
    """Contradictions are found before any code is made, all at once."""
    steps = (Step("fold"), Step("input", index=3))
    with pytest.raises(CodegenError, match=r"operand 0.*no 'fold'.*no input 3.*repeats"):
        TensorProgram((3, 4), (Operand((1,)),), steps, Operand((0, 1)))
    with pytest.raises(CodegenError, match=r"no 'median'.*strides of 2 axes"):
        Reduction("median", (3, 4), Operand((1,)), Operand((1, 0)))
    with pytest.raises(CodegenError, match=r"overlap.*only rows of one column"):
        Softmax(3, 4, 2, stride=7, zeros=1)
