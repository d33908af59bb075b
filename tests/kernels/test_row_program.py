"""Row programs against their reference: whose rows, odd columns, every operation, NaN around all of it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from intaglio.compiler.errors import CodegenError
from intaglio.kernels.catalogue import kernel_from_json
from intaglio.kernels.row_program.program import BINARY, UNARY, RowInput, RowProgram, Step
from intaglio.kernels.row_program.reference import row_program

SIZES = (1, 7, 16, 17, 48, 576, 1000)
CALLS = ((1, 1), (1, 2), (3, 2), (9, 2), (9, 1))  # count, workers
ELEMENTWISE = (
    Step("input"),
    Step("input", index=1),
    Step("input", index=2),
    Step("multiply", (0, 2)),
    Step("add", (3, 1)),
    Step("tanh", (4,)),
    Step("vector"),
    Step("subtract", (5, 6)),
    Step("number", number=0.75),
    Step("maximum", (4, 8)),
    Step("multiply", (7, 9)),
)
NORMS = (  # of an input, of a sum, of the other norms' sum; with and without weights
    *ELEMENTWISE,
    Step("layer_norm", (10, 6), number=1e-5),
    Step("rms_norm", (0, 6), number=1e-6),
    Step("add", (11, 12)),
    Step("vector", index=1),
    Step("layer_norm", (13, 6, 14), number=1e-5),
    Step("rms_norm", (15,), number=1e-5),
    Step("add", (16, 4)),
)


def laid_out(columns, rows, steps, stride, offset):
    """A program of three inputs, the third one a single column, whose rows are `stride` long."""
    other = rows if rows in ("own", "shared") else "all"
    inputs = (
        RowInput(stride, other, offset),
        RowInput(stride + 3, "shared" if rows == "own" else "all", offset),
        RowInput(5, other, 2, broadcast=True),
    )
    return RowProgram(columns, inputs, 2, steps, stride, rows, offset)


def filled(program, random, nan, count, workers):
    """Buffers of a call, NaN wherever a program must not look; a row too many each."""
    extents = {"all": count, "own": workers, "shared": 1, "last": workers}
    buffers = {}
    for i, one in enumerate(program.inputs):
        buffers[f"input{i}"] = nan(extents[one.rows] + 1, one.stride)
        width = 1 if one.broadcast else program.columns
        values = random.normal(size=(extents[one.rows], width))
        buffers[f"input{i}"][:-1, one.offset : one.offset + width] = values
    for i in range(program.vectors):
        buffers[f"vector{i}"] = np.zeros(program.padded, np.float32)
        buffers[f"vector{i}"][: program.columns] = random.normal(size=program.columns)
    buffers |= {f"scratch{i}": nan(workers, program.padded) for i in range(len(program.norms))}
    return buffers | {"result": nan(extents[program.rows] + 1, program.stride)}


def check(program, before, after, count, workers, tolerance=4e-6):
    """The result is right, its padding zero where there is room, and nothing else was touched."""
    inputs = [before[f"input{i}"].astype(np.float64) for i in range(len(program.inputs))]
    vectors = [before[f"vector{i}"].astype(np.float64) for i in range(program.vectors)]
    expected = row_program(program, inputs, vectors, count, workers)
    end = program.offset + program.columns
    found = after["result"][: len(expected), program.offset : end]
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    untouched = np.ones_like(before["result"], bool)
    untouched[: len(expected), program.offset : end] = False
    if program.offset == 0 and program.stride >= program.padded:
        assert (after["result"][: len(expected), end : program.padded] == 0).all()
        untouched[: len(expected), end : program.padded] = False
    np.testing.assert_array_equal(after["result"][untouched], before["result"][untouched])
    for name in (name for name in before if name.startswith(("input", "vector"))):
        np.testing.assert_array_equal(after[name], before[name])


@pytest.mark.parametrize(
    ("rows", "columns"),
    [(rows, columns) for rows in ("all", "shared") for columns in SIZES]
    + [(rows, columns) for rows in ("own", "last") for columns in (7, 48, 1000)],
)
def test_rows(columns, rows, run_kernel, random, nan):
    """Padded rows, as the lowering makes them."""
    steps = ELEMENTWISE if rows == "shared" else NORMS
    stride = -(-columns // 16) * 16
    program = laid_out(columns, rows, steps, stride, 0)
    for count, workers in CALLS:
        buffers = filled(program, random, nan, count, workers)
        done = run_kernel(program, buffers, count=count, workers=workers)
        check(program, buffers, done, count, workers)


@pytest.mark.parametrize("columns", [7, 17, 1000])
@pytest.mark.parametrize(("room", "offset"), [(0, 0), (0, 5), (6, 5), (40, 16)])
@pytest.mark.parametrize("rows", ["all", "shared"])
def test_layouts(columns, room, offset, rows, run_kernel, random, nan):
    """Rows without padding, and columns in the middle of a row."""
    steps = ELEMENTWISE if rows == "shared" else NORMS
    program = laid_out(columns, rows, steps, offset + columns + room, offset)
    buffers = filled(program, random, nan, 3, 2)
    check(program, buffers, run_kernel(program, buffers, count=3, workers=2), 3, 2)


@pytest.mark.parametrize(("columns", "stride"), [(48, 48), (17, 17), (17, 32)])
@pytest.mark.parametrize("rows", ["all", "own", "shared"])
def test_in_place(columns, stride, rows, run_kernel, random):
    """The result in place of the first input."""
    steps = (
        Step("input"),
        Step("silu", (0,)),
        Step("input", index=1),
        Step("add", (1, 2)),
        Step("add", (3, 0)),
    )
    inputs = (RowInput(stride, rows), RowInput(stride, rows))
    program = RowProgram(columns, inputs, 0, steps, stride, rows)
    size = {"all": 3, "own": 2, "shared": 1}[rows]
    x, y = (np.zeros((size, stride), np.float32) for _ in range(2))
    x[:, :columns], y[:, :columns] = random.normal(size=(2, size, columns))
    expected = row_program(program, [x.astype(np.float64), y.astype(np.float64)], [], 3, 2)
    done = run_kernel(program, {"input0": x, "input1": y}, count=3, workers=2, alias={"result": "input0"})
    np.testing.assert_allclose(done["input0"][:, :columns], expected, rtol=2e-6, atol=1e-6)
    assert (done["input0"][:, columns:] == 0).all()


def extremes(random):
    """Finite float32 of every size and sign, with the edges of all functions among them."""
    edges = [
        0,
        1,
        8.89,
        9,
        3.91,
        4,
        5.5,
        87,
        87.4,
        88.7,
        88.73,
        104,
        np.sqrt(0.5),
        1.1754942e-38,
        1.4e-45,
        3.4e38,
    ]
    sizes = 10.0 ** random.uniform(-45, 38.5, 500)
    x = np.concatenate([edges, sizes, random.uniform(0, 12, 900), random.uniform(0, 110, 300)])
    return np.concatenate([x, -x]).astype(np.float32)


@pytest.mark.parametrize(
    ("op", "number"),
    [(op, 0.0) for op in UNARY if op != "power_of_number"]
    + [("power_of_number", number) for number in (0.0, 2.0, 7.0, 0.5, 1.5, 1 / 3, -1.0, -2.0, -0.75)],
)
def test_unary(op, number, run_kernel, random, nan):
    """On all of float32: right where float64 has a float32 result, infinities and NaN included."""
    x = extremes(random)[None]
    columns = x.shape[1]
    steps = (Step("input"), Step(op, (0,), number=number))
    program = RowProgram(columns, (RowInput(columns, "all"),), 0, steps, columns, "all")
    found = run_kernel(program, {"input0": x, "result": nan(*x.shape)})["result"][0].astype(np.float64)
    with np.errstate(all="ignore"):
        expected = row_program(program, [x.astype(np.float64)], [], 1, 1)[0]
        rounded = expected.astype(np.float32)
    special = ~np.isfinite(rounded)
    np.testing.assert_array_equal(found[special], rounded[special])
    found, expected = found[~special], expected[~special]
    absolute = 1e-6 if op in ("logistic", "silu", "gelu_erf", "gelu_tanh") else 1e-37
    relative = 1e-5 if op == "power_of_number" else 1e-6
    np.testing.assert_allclose(found, expected, rtol=relative, atol=absolute)


@pytest.mark.parametrize("op", ["tanh", "erf", "negate", "relu", "silu", "gelu_erf", "gelu_tanh"])
def test_nan_passes_through(op, run_kernel, nan):
    x = np.array([[np.nan, -0.0, 0.0]], np.float32)
    program = RowProgram(3, (RowInput(3, "all"),), 0, (Step("input"), Step(op, (0,))), 3, "all")
    found = run_kernel(program, {"input0": x, "result": nan(1, 3)})["result"][0]
    assert np.isnan(found[0])
    assert (found[1:] == 0).all()
    if op in ("tanh", "erf"):
        assert np.signbit(found[1:]).tolist() == [True, False]


@pytest.mark.parametrize("op", BINARY)
def test_binary(op, run_kernel, random, nan):
    x = random.normal(size=(2, 1, 50)).astype(np.float32)
    inputs = (RowInput(50, "all"), RowInput(50, "all"))
    steps = (Step("input"), Step("input", index=1), Step(op, (0, 1)))
    program = RowProgram(50, inputs, 0, steps, 50, "all")
    found = run_kernel(program, {"input0": x[0], "input1": x[1], "result": nan(1, 50)})["result"]
    expected = row_program(program, list(x.astype(np.float64)), [], 1, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_layer_norm_far_from_zero(run_kernel, random, nan):
    """A mean a thousand times the deviation: the variance must not be a difference of squares."""
    x = (random.normal(size=(2, 100)) + 1000).astype(np.float32)
    steps = (Step("input"), Step("layer_norm", (0,), number=1e-5))
    program = RowProgram(100, (RowInput(100, "all"),), 0, steps, 100, "all")
    buffers = {"input0": x, "scratch0": nan(1, 112), "result": nan(2, 100)}
    found = run_kernel(program, buffers, count=2)["result"]
    expected = row_program(program, [x.astype(np.float64)], [], 2, 1)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_round_trip():
    """Through JSON and back, as a stored program is."""
    program = laid_out(17, "all", NORMS, 32, 0)
    text = json.dumps(dataclasses.asdict(program))
    again = kernel_from_json("RowProgram", json.loads(text))
    assert again == program
    assert hash(again) == hash(program)
    assert again != dataclasses.replace(program, steps=NORMS[:-1])
    assert list(program.pointers) == [
        *("input0", "input1", "input2", "vector0", "vector1"),
        *("scratch0", "scratch1", "scratch2", "scratch3", "result"),
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steps": ()}, "there are no steps"),
        ({"steps": (Step("sine"),)}, "no op 'sine'"),
        ({"steps": (Step("input"), Step("add", (0,)))}, "step 1: add does not take 1 arguments"),
        ({"steps": (Step("input"), Step("add", (0, 1)))}, "argument 1 is no earlier step"),
        ({"steps": (Step("input", index=1),)}, "there is no input 1"),
        ({"steps": (Step("vector"),)}, "there is no vector 0"),
        ({"rows": "shared", "steps": (Step("input"), Step("rms_norm", (0,)))}, "a norm needs whole rows"),
        ({"rows": "each"}, "there are no rows 'each'"),
        ({"offset": 1}, "16 columns from 1 on do not fit stride 16"),
        ({"columns": 0}, "0 columns"),
        ({"inputs": (RowInput(16, "all", 1),)}, "input 0: rows 'all' of stride 16 from column 1"),
        ({"inputs": (RowInput(16, "last"),)}, "input 0: rows 'last'"),
    ],
)
def test_contradictions(changes, reason):
    values = {"columns": 16, "inputs": (RowInput(16, "all"),), "vectors": 0, "steps": (Step("input"),)}
    with pytest.raises(CodegenError, match=f"row program: .*{reason}"):
        RowProgram(**{**values, "stride": 16, "rows": "all", **changes})
