"""The linear kernels against their references, on odd sizes and NaN-filled buffers."""

from __future__ import annotations

import numpy as np
import pytest

from intaglio.kernels.linear import layout, reference
from intaglio.kernels.linear.dequantized_matrix import DequantizedMatrixMatrix
from intaglio.kernels.linear.dequantized_vector import DequantizedMatrixVector
from intaglio.kernels.linear.epilogue import GATED, PLAIN
from intaglio.kernels.linear.floating import FloatLinear
from intaglio.kernels.linear.matrix_matrix import PADDING, QuantizedMatrixMatrix
from intaglio.kernels.linear.matrix_vector import QuantizedMatrixVector
from intaglio.kernels.linear.requantized import RequantizedMatrixMatrix
from intaglio.kernels.quantize_activation.reference import dequantize_activation, quantize_activation

WEIGHTS = {
    "int4-minimum": layout.QuantizedWeight(80, 96, 4, 32, 0, "float16", "float16"),
    "int4-offset": layout.QuantizedWeight(37, 128, 4, 64, 8, "", "float16"),
    "int8-channel": layout.QuantizedWeight(50, 96, 8, 96, 128, "", "float32"),
    "int8-minimum": layout.QuantizedWeight(16, 64, 8, 32, 0, "float32", "float16"),
}


def random_weight(weight: layout.QuantizedWeight, random: np.random.Generator) -> tuple[dict, np.ndarray]:
    """Packed buffers and the float64 weight they stand for."""
    codes = random.integers(0, 2**weight.bits, (weight.rows, weight.columns)).astype(np.uint8)
    groups = (weight.rows, weight.columns // weight.group)
    scale = (random.random(groups) * 0.01).astype(weight.scale_dtype)
    minimum = random.normal(size=groups).astype(weight.minimum) if weight.minimum else None
    packed = {
        "codes": layout.pack_codes(codes, weight).view(np.int32),
        "scales": layout.pack_groups(scale, weight, weight.scale_dtype),
    }
    if minimum is not None:
        packed["minima"] = layout.pack_groups(minimum, weight, weight.minimum)
    low = None if minimum is None else minimum.astype(np.float64)
    return packed, reference.dequantize(codes, scale.astype(np.float64), low, weight.offset)


def quantized_rows(x: np.ndarray, group: int, rows: int) -> tuple[dict, np.ndarray]:
    """Activation buffers of at least `rows` rows, and the float64 activations they stand for."""
    codes, scales, sums = quantize_activation(x, group)
    padded = [np.zeros((rows, part.shape[1]), part.dtype) for part in (codes, scales, sums)]
    for part, values in zip(padded, (codes, scales, sums), strict=True):
        part[: len(values)] = values
    buffers = dict(zip(("activation", "activation_scales", "activation_sums"), padded, strict=True))
    return buffers, dequantize_activation(codes, scales)


def close(found: np.ndarray, expected: np.ndarray, tolerance: float = 2e-6) -> None:
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


# Activations of 16 bits: half a step of 2⁻¹⁵ of the largest, in a sum of products whose signs differ.
FIXED_POINT = 1e-4


def scratch_of(kernel: DequantizedMatrixVector, workers: int) -> dict[str, np.ndarray]:
    """Scratch buffers full of what is NaN as a float."""
    return {name: np.full(workers * size, 255, np.uint8) for name, size in kernel.scratch_bytes.items()}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", WEIGHTS)
def test_matrix_vector(name, workers, run_kernel, random, nan):
    weight = WEIGHTS[name]
    packed, dense = random_weight(weight, random)
    x = random.normal(size=(1, weight.columns)).astype(np.float32)
    activation, exact = quantized_rows(np.repeat(x, workers, 0), 32, workers)
    kernel = QuantizedMatrixVector(weight, 32, "store")
    done = run_kernel(kernel, packed | activation | {"result": nan(weight.blocks * 16)}, workers=workers)
    close(done["result"][: weight.rows], reference.linear(exact[:1], dense)[0])
    assert (done["result"][weight.rows :] == 0).all()


@pytest.mark.parametrize("tokens", [1, 6, 13])
@pytest.mark.parametrize("name", WEIGHTS)
def test_matrix_matrix(name, tokens, run_kernel, random, nan):
    weight = WEIGHTS[name]
    packed, dense = random_weight(weight, random)
    x = random.normal(size=(tokens, weight.columns)).astype(np.float32)
    activation, exact = quantized_rows(x, 32, tokens + PADDING)
    stride = weight.blocks * 16
    buffers = packed | activation | {"panel": np.zeros(2 * weight.columns * 32 // 4, np.int32)}
    buffers["result"] = nan(tokens + PADDING, stride)
    kernel = QuantizedMatrixMatrix(weight, 32, "store", stride)
    done = run_kernel(kernel, buffers, count=tokens, workers=2)
    close(done["result"][:tokens, : weight.rows], reference.linear(exact, dense))


@pytest.mark.parametrize("epilogue", GATED)
@pytest.mark.parametrize("tokens", [1, 9])
def test_epilogues(tokens, epilogue, run_kernel, random, nan):
    weight = layout.QuantizedWeight(72, 64, 4, 32, 8, "", "float16", 2)
    packed, dense = random_weight(weight, random)
    x = random.normal(size=(tokens, 64)).astype(np.float32) * 20
    activation, exact = quantized_rows(x, 64 // 2, tokens + PADDING)
    expected = reference.linear_gated(exact, dense, epilogue)
    if tokens == 1:
        kernel = QuantizedMatrixVector(weight, 32, epilogue)
        found = run_kernel(kernel, packed | activation | {"result": nan(48)})["result"][None]
    else:
        kernel = QuantizedMatrixMatrix(weight, 32, epilogue, 48)
        scratch = {"panel": np.zeros(64 * 32 // 4, np.int32), "result": nan(tokens + PADDING, 48)}
        found = run_kernel(kernel, packed | activation | scratch, count=tokens)["result"][:tokens]
    close(found[:, :36], expected, 4e-6)


def grid_ends(packed: dict[str, np.ndarray], weight: layout.QuantizedWeight) -> np.ndarray:
    """The largest value that the grid of each row can hold, from the packed scales and minima."""

    def rows(name: str) -> np.ndarray:
        groups = packed[name].reshape(weight.blocks, -1, 16).astype(np.float64)
        return groups.swapaxes(1, 2).reshape(weight.blocks * 16, -1)

    minima = rows("minima") if weight.minimum else 0.0
    codes = np.array([0, 2**weight.bits - 1]) - weight.offset
    return np.abs(rows("scales")[..., None] * codes + np.expand_dims(minima, -1)).max(axis=(1, 2))


@pytest.mark.parametrize("tokens", [2, 13])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", WEIGHTS)
def test_requantized(name, workers, tokens, run_kernel, random, nan):
    weight = WEIGHTS[name]
    packed, dense = random_weight(weight, random)
    ends = grid_ends(packed, weight)[: weight.rows]
    x = random.normal(size=(tokens, weight.columns)).astype(np.float32)
    activation, exact = quantized_rows(x, 32, tokens + PADDING)
    stride = weight.blocks * 16
    kernel = RequantizedMatrixMatrix(weight, 32, "store", stride)
    panel = np.zeros((workers, weight.columns * 32 // 4), np.int32)
    buffers = packed | activation | {"panel": panel, "result": nan(tokens + PADDING, stride)}
    found = run_kernel(kernel, buffers, count=tokens, workers=workers)["result"][:tokens]
    expected = reference.linear(exact, reference.requantize(dense, ends))
    off = np.abs(found[:, : weight.rows] - expected)
    assert (off <= 2e-6 * np.abs(expected).max() + np.abs(exact) @ steps_at_ties(dense, ends).T).all()
    assert (found[:, weight.rows :] == 0).all()
    allowed = np.abs(exact).sum(axis=1)[:, None] * ends / 254 + 1e-4
    assert (np.abs(found[:, : weight.rows] - reference.linear(exact, dense)) <= allowed).all()


def test_requantized_gated_rows_and_rows_of_zeros(run_kernel, random, nan):
    weight = layout.QuantizedWeight(72, 64, 4, 32, 8, "", "float16", 2)
    packed, dense = random_weight(weight, random)
    scales = packed["scales"].reshape(weight.blocks, -1, 16)
    scales[0, :, 3] = 0
    dense[3] = 0
    ends = layout_ends(packed, weight)
    x = random.normal(size=(7, 64)).astype(np.float32)
    activation, exact = quantized_rows(x, 32, 7 + PADDING)
    kernel = RequantizedMatrixMatrix(weight, 32, "swiglu", 48)
    scratch = {"panel": np.zeros(64 * 32 // 4, np.int32), "result": nan(7 + PADDING, 48)}
    found = run_kernel(kernel, packed | activation | scratch, count=7)["result"][:7, :36]
    rounded = reference.requantize(dense, ends)
    slack = 3 * (np.abs(exact) @ steps_at_ties(dense, ends).T).max()
    expected = reference.linear_gated(exact, rounded, "swiglu")
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() <= 4e-6 * np.abs(expected).max() + slack
    assert (found[:, 3] == 0).all()


def steps_at_ties(dense: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The grid's step where a weight lies halfway between two points: float32 may round it either way."""
    scale = np.where(ends > 0, ends / 127, 1.0)[:, None]
    halfway = np.abs(np.abs(dense / scale - np.rint(dense / scale)) - 0.5) < 1e-4
    return halfway * scale


def layout_ends(packed: dict[str, np.ndarray], weight: layout.QuantizedWeight) -> np.ndarray:
    """`grid_ends` in the order of the rows of two interleaved halves of 36."""
    ends = grid_ends(packed, weight).reshape(-1, 2, 16)
    return np.concatenate([ends[:, part].reshape(-1)[:36] for part in (0, 1)])


@pytest.mark.parametrize("tokens", [1, 7])
def test_residual_add(tokens, run_kernel, random):
    weight = WEIGHTS["int4-minimum"]
    packed, dense = random_weight(weight, random)
    x = random.normal(size=(tokens, weight.columns)).astype(np.float32)
    activation, exact = quantized_rows(x, 32, tokens + PADDING)
    before = random.normal(size=(tokens + PADDING, weight.rows)).astype(np.float32)
    expected = before[:tokens] + reference.linear(exact, dense)
    if tokens == 1:
        kernel = QuantizedMatrixVector(weight, 32, "add")
        found = run_kernel(kernel, packed | activation | {"result": before[0]})["result"][None]
    else:
        kernel = QuantizedMatrixMatrix(weight, 32, "add", weight.rows)
        scratch = {"panel": np.zeros(weight.columns * 32 // 4, np.int32), "result": before}
        found = run_kernel(kernel, packed | activation | scratch, count=tokens)["result"][:tokens]
    close(found, expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tokens", [1, 11])
@pytest.mark.parametrize("epilogue", PLAIN + GATED)
def test_float_weights(dtype, tokens, epilogue, run_kernel, random, nan):
    parts = 2 if epilogue in GATED else 1
    weight = layout.FloatWeight(38, 21, dtype, parts)
    dense = random.normal(size=(38, 21)).astype(np.float32)
    source = dense
    if dtype == "bfloat16":
        source = (dense.view(np.uint32) >> 16).astype(np.uint16)
        dense = (source.astype(np.uint32) << 16).view(np.float32)
    packed = layout.pack_float(source, weight)
    x = nan(tokens + 8, 32)
    x[:, :22] = 0
    x[:tokens, :21] = random.normal(size=(tokens, 21))
    stride = weight.blocks // parts * 16
    before = (
        random.normal(size=(tokens + 8, stride)).astype(np.float32)
        if epilogue == "add"
        else nan(tokens + 8, stride)
    )
    kernel = FloatLinear(weight, epilogue, 32, stride, "own" if tokens == 1 else "all")
    if dtype == "bfloat16":
        packed = packed.view(np.uint32)
    found = run_kernel(kernel, {"weight": packed, "activation": x, "result": before}, count=tokens)["result"][
        :tokens
    ]
    exact = x[:tokens, :21].astype(np.float64), dense.astype(np.float64)
    expected = reference.linear_gated(*exact, epilogue) if parts == 2 else reference.linear(*exact)
    if epilogue == "add":
        expected = expected + before[:tokens, :38]
    close(found[:, : expected.shape[1]], expected)


@pytest.mark.parametrize("tokens", [1, 11])
@pytest.mark.parametrize("name", WEIGHTS)
def test_float_activations(name, tokens, run_kernel, random, nan):
    weight = WEIGHTS[name]
    packed, dense = random_weight(weight, random)
    x = nan(tokens + PADDING, weight.columns)
    x[:tokens] = random.normal(size=(tokens, weight.columns))
    stride = weight.blocks * 16 + 16
    buffers = packed | {"activation": x, "result": nan(tokens + PADDING, stride)}
    if tokens == 1:
        kernel = DequantizedMatrixVector(weight, "store", weight.columns, "shared", 16)
        buffers |= scratch_of(kernel, 2)
    else:
        kernel = DequantizedMatrixMatrix(weight, "store", weight.columns, stride, 16)
        buffers["panel"] = nan(2, weight.columns * 32)
    done = run_kernel(kernel, buffers, count=tokens, workers=2)
    found = done["result"][:tokens, 16 : 16 + weight.rows]
    close(found, reference.linear(x[:tokens].astype(np.float64), dense), FIXED_POINT if tokens == 1 else 2e-6)
    assert np.isnan(done["result"][:tokens, :16]).all()


@pytest.mark.parametrize("epilogue", GATED)
@pytest.mark.parametrize("tokens", [1, 7])
def test_gated_float_activations(tokens, epilogue, run_kernel, random, nan):
    weight = layout.QuantizedWeight(72, 64, 4, 32, 8, "", "float16", 2)
    packed, dense = random_weight(weight, random)
    x = nan(tokens + PADDING, 64)
    x[:tokens] = random.normal(size=(tokens, 64)) * 20
    buffers = packed | {"activation": x, "result": nan(tokens + PADDING, 48)}
    if tokens == 1:
        kernel = DequantizedMatrixVector(weight, epilogue, 64, "shared", 0)
        buffers |= scratch_of(kernel, 1)
    else:
        kernel = DequantizedMatrixMatrix(weight, epilogue, 64, 48, 0)
        buffers["panel"] = nan(1, 64 * 32)
    found = run_kernel(kernel, buffers, count=tokens)["result"][:tokens, :36]
    close(found, reference.linear_gated(x[:tokens].astype(np.float64), dense, epilogue), FIXED_POINT)


def test_packing_keeps_every_code(random):
    """Interleaved halves with padding: unpack by hand and compare."""
    weight = layout.QuantizedWeight(36, 16, 4, 16, 8, "", "float16", 2)
    codes = random.integers(0, 16, (36, 16)).astype(np.uint8)
    lines = layout.pack_codes(codes, weight).reshape(weight.blocks, 2, 16, 4)
    for row in range(36):
        half, inside = divmod(row, 18)
        block, lane = 2 * (inside // 16) + half, inside % 16
        for column in range(16):
            byte = lines[block, column // 8, lane, column % 4]
            assert (byte >> (4 * (column % 8 // 4))) & 15 == codes[row, column]
