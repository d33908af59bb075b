"""The onnxruntime backend computes the graph's own arithmetic, and reports what it cannot do."""

from __future__ import annotations

import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from intaglio.backends.onnxruntime import OnnxRuntimeSession
from intaglio.compiler.errors import ModelError, OptionError, UnsupportedModelError
from intaglio.compiler.ir import DOMAIN, GraphBuilder, dequantize, is_dequantized_weight, swiglu

FLOAT = ir.DataType.FLOAT
RANDOM = np.random.default_rng(7)


def four_bit_linear(axis: int) -> ir.Model:
    """`x · W` with 4-bit `W`, stored `[K, N]` (axis 0) or `[N, K]` and transposed (axis 1)."""
    builder = GraphBuilder()
    shape, blocks = ((96, 64), (3, 64)) if axis == 0 else ((64, 96), (64, 3))
    codes = builder.initializer("codes", RANDOM.integers(0, 16, shape).astype(ml_dtypes.uint4))
    scale = builder.initializer("scale", RANDOM.standard_normal(blocks).astype(np.float32))
    zero = builder.initializer("zero", np.full(blocks, 8, np.uint8).astype(ml_dtypes.uint4))
    weight = builder.node("DequantizeLinear", [codes, scale, zero], {"axis": axis, "block_size": 32})
    weight = builder.node("Transpose", [weight], {"perm": [1, 0]}) if axis else weight
    x = builder.input("x", FLOAT, ["batch", 96])
    y = builder.node("MatMul", [x, weight], dtype=FLOAT, shape=["batch", 64])
    builder.output(y, "y")
    return builder.model()


def values_of(model: ir.Model, axis: int) -> np.ndarray:
    """The matrix `[K, N]` in float64, from the stored arrays."""
    codes, scale = (model.graph.initializers[name].const_value for name in ("codes", "scale"))
    assert codes is not None
    assert scale is not None
    spread = np.repeat(scale.numpy().astype(np.float64), 32, axis=axis)
    values = (codes.numpy().astype(np.float64) - 8) * spread
    return values.T if axis else values


@pytest.mark.parametrize("axis", [0, 1])
def test_activations_are_never_rounded_behind_our_back(axis: int) -> None:
    model = four_bit_linear(axis)
    x = RANDOM.standard_normal((3, 96)).astype(np.float32)
    expected = x.astype(np.float64) @ values_of(model, axis)
    result = OnnxRuntimeSession(model, threads=1).run({"x": x})["y"]
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=2e-5)


def test_functions_are_inlined_in_a_copy() -> None:
    builder = GraphBuilder()
    gate, up = (builder.input(name, FLOAT, [3, 7]) for name in ("gate", "up"))
    builder.output(builder.node("SwiGLU", [gate, up], domain=DOMAIN, dtype=FLOAT, shape=[3, 7]), "y")
    model = builder.model([swiglu()])
    before = str(model)
    given = {name: RANDOM.standard_normal((3, 7)).astype(np.float32) for name in ("gate", "up")}
    result = OnnxRuntimeSession(model, threads=2).run(given)["y"]
    expected = given["gate"] / (1 + np.exp(-given["gate"])) * given["up"]
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    assert str(model) == before


def test_lazy_and_packed_weights() -> None:
    builder = GraphBuilder()
    array = RANDOM.standard_normal((5, 2)).astype(np.float16)
    packed = RANDOM.integers(0, 256, 5 * 32, dtype=np.uint8)
    lazy = ir.LazyTensor(lambda: ir.Tensor(array), ir.DataType.FLOAT16, ir.Shape([5, 2]))
    codes = builder.initializer("codes", ir.PackedTensor(packed, ir.DataType.INT4, shape=[5, 64]))
    scale = builder.node("Cast", [builder.initializer("scale", lazy)], {"to": 1})
    weight = builder.node("DequantizeLinear", [codes, scale], {"axis": 1, "block_size": 32})
    x = builder.input("x", FLOAT, [5, 64])
    builder.output(builder.node("Mul", [x, weight], dtype=FLOAT, shape=[5, 64]), "y")
    described = is_dequantized_weight(weight)
    assert described is not None
    result = OnnxRuntimeSession(builder.model(), threads=1).run({"x": np.ones((5, 64), np.float32)})["y"]
    np.testing.assert_array_equal(result, dequantize(described))


def test_temporary_files_are_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    session = OnnxRuntimeSession(four_bit_linear(1), threads=1)
    assert list(tmp_path.iterdir()) == []
    session.run({"x": np.ones((1, 96), np.float32)})
    with pytest.raises(ModelError):
        OnnxRuntimeSession(broken("NoSuchOp"), threads=1)
    assert list(tmp_path.iterdir()) == []


def broken(op: str, *, domain: str = "") -> ir.Model:
    builder = GraphBuilder()
    x = builder.input("x", FLOAT, [3])
    builder.output(builder.node(op, [x], domain=domain, dtype=FLOAT, shape=[3], name="layers.0.bad"))
    return builder.model()


@pytest.mark.parametrize("model", [broken("NoSuchOp"), broken("Absent", domain=DOMAIN)])
def test_a_model_it_refuses(model: ir.Model) -> None:
    with pytest.raises(ModelError, match=r"\[onnxruntime\] the model cannot be loaded.*"):
        OnnxRuntimeSession(model, threads=1)


def test_an_op_without_kernel() -> None:
    builder = GraphBuilder()
    x = builder.input("x", ir.DataType.BFLOAT16, [3])
    builder.output(builder.node("Erf", [x], dtype=ir.DataType.BFLOAT16, shape=[3], name="layers.0.erf"))
    with pytest.raises(UnsupportedModelError, match="no kernel") as caught:
        OnnxRuntimeSession(builder.model(), threads=1)
    assert any("Erf" in one for one in caught.value.problems)


BAD_INPUTS: list[tuple[dict[str, np.ndarray], str]] = [
    ({}, "input 'x' is missing"),
    ({"x": np.ones((1, 96), np.float32), "z": np.ones(1)}, "'z' is not an input"),
    ({"x": np.ones((1, 95), np.float32)}, "an input does not fit"),
    ({"x": np.ones((1, 96), np.int64)}, "an input does not fit"),
]


@pytest.mark.parametrize(("inputs", "message"), BAD_INPUTS)
def test_bad_inputs_are_named(inputs: dict[str, np.ndarray], message: str) -> None:
    session = OnnxRuntimeSession(four_bit_linear(1), threads=1)
    with pytest.raises(OptionError, match=message):
        session.run(inputs)


def test_a_failing_run_is_reported() -> None:
    builder = GraphBuilder()
    x, y = (builder.input(name, FLOAT, [size]) for name, size in (("x", "n"), ("y", "m")))
    builder.output(builder.node("Add", [x, y], dtype=FLOAT, shape=["k"], name="layers.0.add"))
    session = OnnxRuntimeSession(builder.model(), threads=1)
    with pytest.raises(ModelError, match=r"run failed.*layers\.0\.add"):
        session.run({"x": np.ones(3, np.float32), "y": np.ones(4, np.float32)})


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_are_checked(threads: int) -> None:
    with pytest.raises(OptionError, match=f"threads={threads}; use at least 1"):
        OnnxRuntimeSession(four_bit_linear(1), threads=threads)
