"""The linear kernels for a few rows: against float64, and equal to those for one vector to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from intaglio.kernels.linear import layout, reference
from intaglio.kernels.linear.dequantized_vector import DequantizedMatrixVector
from intaglio.kernels.linear.epilogue import GATED, PLAIN
from intaglio.kernels.linear.few_dequantized import DequantizedFewVectors
from intaglio.kernels.linear.few_floating import FloatFewVectors
from intaglio.kernels.linear.few_vectors import QuantizedFewVectors
from intaglio.kernels.linear.matrix_vector import QuantizedMatrixVector
from intaglio.kernels.linear.row_tiles import PADDING
from intaglio.kernels.quantize_activation.reference import dequantize_activation, quantize_activation

# Rows, columns, bits, group, offset, minimum, scales; the last has an offset and minima.
WEIGHTS = {
    "int4-minimum": layout.QuantizedWeight(80, 96, 4, 32, 0, "float16", "float16"),
    "int4-offset": layout.QuantizedWeight(37, 128, 4, 64, 8, "", "float16"),
    "int8-channel": layout.QuantizedWeight(50, 96, 8, 96, 128, "", "float32"),
    "int8-both": layout.QuantizedWeight(17, 64, 8, 16, 3, "float32", "float16"),
}
# Activations of 16 bits: half a step of 2⁻¹⁵ of the largest, in a sum of products whose signs differ.
FIXED_POINT = 1e-4
MOST = 21
ROWS = (1, 2, 3, 7, 8, 13, MOST)


def random_weight(weight: layout.QuantizedWeight, random: np.random.Generator) -> tuple[dict, np.ndarray]:
    """Packed buffers and the float64 weight they stand for."""
    codes = random.integers(0, 2**weight.bits, (weight.rows, weight.columns)).astype(np.uint8)
    groups = (weight.rows, weight.columns // weight.group)
    scale = (random.random(groups) * 0.01).astype(weight.scale_dtype)
    packed = {
        "codes": layout.pack_codes(codes, weight).view(np.int32),
        "scales": layout.pack_groups(scale, weight, weight.scale_dtype),
    }
    low = None
    if weight.minimum:
        minimum = random.normal(size=groups).astype(weight.minimum)
        packed["minima"] = layout.pack_groups(minimum, weight, weight.minimum)
        low = minimum.astype(np.float64)
    return packed, reference.dequantize(codes, scale.astype(np.float64), low, weight.offset)


def quantized_rows(x: np.ndarray, group: int) -> tuple[dict, np.ndarray]:
    """Buffers of activations with `PADDING` rows more, and the float64 activations they stand for."""
    parts = quantize_activation(x, group)
    padded = [np.pad(part, ((0, PADDING), (0, 0))) for part in parts]
    buffers = dict(zip(("activation", "activation_scales", "activation_sums"), padded, strict=True))
    return buffers, dequantize_activation(parts[0], parts[1])


def scratch(kernel: QuantizedFewVectors | DequantizedFewVectors, workers: int) -> dict[str, np.ndarray]:
    """Scratch buffers full of what is NaN as a float."""
    return {name: np.full(workers * size, 255, np.uint8) for name, size in kernel.scratch_bytes.items()}


def close(found: np.ndarray, expected: np.ndarray, tolerance: float = 2e-6) -> None:
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", WEIGHTS)
def test_quantized_rows(name, workers, run_kernel, random, nan):
    weight = WEIGHTS[name]
    group = min(32, weight.group)
    packed, dense = random_weight(weight, random)
    stride = weight.blocks * 16 + 16
    kernel = QuantizedFewVectors(weight, group, "store", stride, MOST, 16)
    for count in ROWS:
        activation, exact = quantized_rows(
            random.normal(size=(count, weight.columns)).astype(np.float32), group
        )
        buffers = packed | activation | scratch(kernel, workers) | {"result": nan(count + PADDING, stride)}
        result = run_kernel(kernel, buffers, count=count, workers=workers)["result"]
        close(result[:count, 16 : 16 + weight.rows], reference.linear(exact, dense))
        assert np.isnan(result[:count, :16]).all()
        assert np.isnan(result[count + 1 :]).all()  # at most one row more is computed


@pytest.mark.parametrize("name", WEIGHTS)
def test_quantized_rows_are_those_of_the_vector_kernel(name, run_kernel, random, nan):
    weight = WEIGHTS[name]
    group = min(32, weight.group)
    packed, _ = random_weight(weight, random)
    stride = weight.blocks * 16 + 16
    activation, _ = quantized_rows(random.normal(size=(11, weight.columns)).astype(np.float32), group)
    kernel = QuantizedFewVectors(weight, group, "store", stride, MOST, 16)
    buffers = packed | activation | scratch(kernel, 1) | {"result": nan(11 + PADDING, stride)}
    together = run_kernel(kernel, buffers, count=11)["result"]
    vector = QuantizedMatrixVector(weight, group, "store")
    for row in (0, 7, 10):
        one = {key: values[row : row + 1] for key, values in activation.items()}
        alone = run_kernel(vector, packed | one | {"result": nan(stride - 16)})["result"]
        assert np.array_equal(together[row, 16:], alone)


@pytest.mark.parametrize("epilogue", GATED[:2])
def test_quantized_gates(epilogue, run_kernel, random, nan):
    weight = layout.QuantizedWeight(72, 64, 4, 32, 8, "", "float16", 2)
    packed, dense = random_weight(weight, random)
    kernel = QuantizedFewVectors(weight, 32, epilogue, 48, MOST)
    for count in (2, 13):
        activation, exact = quantized_rows(random.normal(size=(count, 64)).astype(np.float32) * 20, 32)
        buffers = packed | activation | scratch(kernel, 2) | {"result": nan(count + PADDING, 48)}
        found = run_kernel(kernel, buffers, count=count, workers=2)["result"][:count, :36]
        close(found, reference.linear_gated(exact, dense, epilogue), 4e-6)


def test_quantized_residual(run_kernel, random):
    weight = WEIGHTS["int4-minimum"]
    packed, dense = random_weight(weight, random)
    activation, exact = quantized_rows(random.normal(size=(7, 96)).astype(np.float32), 32)
    before = random.normal(size=(7 + PADDING, 80)).astype(np.float32)
    kernel = QuantizedFewVectors(weight, 32, "add", 80, MOST)
    buffers = packed | activation | scratch(kernel, 1) | {"result": before}
    found = run_kernel(kernel, buffers, count=7)["result"][:7]
    close(found, before[:7] + reference.linear(exact, dense))


def test_one_group_for_a_whole_row(run_kernel, random, nan):
    weight = layout.QuantizedWeight(33, 72, 4, 72, 8, "", "float16")
    packed, dense = random_weight(weight, random)
    kernel = QuantizedFewVectors(weight, 72, "store", 48, MOST)
    activation, exact = quantized_rows(random.normal(size=(5, 72)).astype(np.float32), 72)
    buffers = packed | activation | scratch(kernel, 1) | {"result": nan(5 + PADDING, 48)}
    found = run_kernel(kernel, buffers, count=5)["result"][:5, :33]
    close(found, reference.linear(exact, dense))


@pytest.mark.parametrize("name", WEIGHTS)
def test_float_activations(name, run_kernel, random, nan):
    weight = WEIGHTS[name]
    packed, dense = random_weight(weight, random)
    stride = weight.blocks * 16
    kernel = DequantizedFewVectors(weight, "store", weight.columns, stride, MOST)
    vector = DequantizedMatrixVector(weight, "store", weight.columns, "shared")
    for count in (2, 5, 15):
        x = nan(count + PADDING, weight.columns)
        x[:count] = random.normal(size=(count, weight.columns))
        result = nan(count + PADDING, stride)
        buffers = packed | scratch(kernel, 2) | {"activation": x, "result": result}
        found = run_kernel(kernel, buffers, count=count, workers=2)["result"]
        close(
            found[:count, : weight.rows], reference.linear(x[:count].astype(np.float64), dense), FIXED_POINT
        )
        last = scratch(vector, 1) | {"activation": x[count - 1 : count], "result": nan(stride)}
        alone = run_kernel(vector, packed | last)["result"]
        assert np.array_equal(found[count - 1], alone)


def test_gated_float_activations(run_kernel, random, nan):
    weight = layout.QuantizedWeight(72, 64, 4, 32, 8, "", "float16", 2)
    packed, dense = random_weight(weight, random)
    epilogue = GATED[2]
    kernel = DequantizedFewVectors(weight, epilogue, 64, 48, MOST)
    x = nan(9 + PADDING, 64)
    x[:9] = random.normal(size=(9, 64)) * 20
    buffers = packed | scratch(kernel, 1) | {"activation": x, "result": nan(9 + PADDING, 48)}
    found = run_kernel(kernel, buffers, count=9)["result"][:9, :36]
    close(found, reference.linear_gated(x[:9].astype(np.float64), dense, epilogue), FIXED_POINT)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("epilogue", [*PLAIN, GATED[0]])
def test_float_weights(dtype, epilogue, run_kernel, random, nan):
    parts = 2 if epilogue in GATED else 1
    weight = layout.FloatWeight(38, 21, dtype, parts)
    dense = random.normal(size=(38, 21)).astype(np.float32)
    source = dense
    if dtype == "bfloat16":
        source = (dense.view(np.uint32) >> 16).astype(np.uint16)
        dense = (source.astype(np.uint32) << 16).view(np.float32)
    packed = layout.pack_float(source, weight)
    packed = packed.view(np.uint32) if dtype == "bfloat16" else packed
    stride = weight.blocks // parts * 16
    kernel = FloatFewVectors(weight, epilogue, 32, stride)
    for count in (2, 13):
        x = nan(count + PADDING, 32)
        x[:, :22] = 0
        x[:count, :21] = random.normal(size=(count, 21))
        before = nan(count + PADDING, stride)
        if epilogue == "add":
            before = random.normal(size=before.shape).astype(np.float32)
        buffers = {"weight": packed, "activation": x, "result": before}
        found = run_kernel(kernel, buffers, count=count, workers=2)["result"][:count]
        exact = x[:count, :21].astype(np.float64), dense.astype(np.float64)
        expected = reference.linear_gated(*exact, epilogue) if parts == 2 else reference.linear(*exact)
        if epilogue == "add":
            expected = expected + before[:count, :38]
        close(found[:, : expected.shape[1]], expected)
