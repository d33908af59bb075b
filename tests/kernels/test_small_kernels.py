"""The small kernels against their references, on odd sizes and NaN-filled buffers."""

from __future__ import annotations

import numpy as np
import pytest

from intaglio.kernels.embedding.kernel import FloatEmbedding, QuantizedEmbedding
from intaglio.kernels.embedding.reference import embedding
from intaglio.kernels.linear import layout
from intaglio.kernels.linear.reference import dequantize
from intaglio.kernels.quantize_activation.kernel import QuantizeActivation
from intaglio.kernels.quantize_activation.reference import quantize_activation


@pytest.mark.parametrize("group", [32, 64, 8, 96])
@pytest.mark.parametrize("rows", ["all", "own", "shared"])
def test_quantize_activation(group, rows, run_kernel, random, nan):
    columns = 2 * group
    x = random.normal(size=(3 if rows == "all" else 2, columns)).astype(np.float32)
    x[0, :group] = 0
    x[1, 0] = 127.5  # makes halves likely: 127.5 → 127
    if rows == "shared":
        x[1] = np.nan
    codes, scales, sums = quantize_activation(np.repeat(x[:1], 2, 0) if rows == "shared" else x, group)
    size = len(codes)
    buffers = {"x": x, "codes": np.full((size, columns), 99, np.int8), "scales": nan(size, 2)}
    buffers["sums"] = np.full((size, 2), 99, np.int32)
    done = run_kernel(QuantizeActivation(columns, group, columns, rows), buffers, count=3, workers=2)
    np.testing.assert_array_equal(done["codes"], codes)
    np.testing.assert_array_equal(done["scales"], scales)
    np.testing.assert_array_equal(done["sums"], sums)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("minimum", [False, True])
def test_quantized_embedding(bits, minimum, run_kernel, random, nan):
    weight = layout.QuantizedWeight(
        35, 64, bits, 32, 0 if minimum else 2 ** (bits - 1), "float16" if minimum else "", "float16"
    )
    codes = random.integers(0, 2**bits, (35, 64)).astype(np.uint8)
    scale = random.random((35, 2)).astype(np.float16)
    low = random.normal(size=(35, 2)).astype(np.float16)
    buffers = {
        "codes": layout.pack_codes(codes, weight),
        "scales": layout.pack_groups(scale, weight, "float16"),
    }
    if minimum:
        buffers["minima"] = layout.pack_groups(low, weight, "float16")
    tokens = np.array([34, 0, 17], np.int32)
    done = run_kernel(
        QuantizedEmbedding(weight, 80), buffers | {"tokens": tokens, "result": nan(3, 80)}, count=3, workers=2
    )
    table = dequantize(codes, scale.astype(float), low.astype(float) if minimum else None, weight.offset)
    np.testing.assert_allclose(done["result"][:, :64], embedding(tokens, table), rtol=1e-6, atol=1e-6)
    assert (done["result"][:, 64:] == 0).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_float_embedding(dtype, run_kernel, random, nan):
    weight = layout.FloatWeight(19, 33, dtype)
    table = random.normal(size=(19, 33)).astype(np.float32)
    source: np.ndarray = table
    if dtype == "bfloat16":
        source = (table.view(np.uint32) >> 16).astype(np.uint16)
        table = (source.astype(np.uint32) << 16).view(np.float32)
    tokens = np.array([18, 3], np.int32)
    buffers = {"weight": layout.pack_float(source, weight), "tokens": tokens, "result": nan(2, 48)}
    done = run_kernel(FloatEmbedding(weight, 48), buffers, count=2)
    np.testing.assert_array_equal(done["result"][:, :33], table[tokens])
    assert (done["result"][:, 33:] == 0).all()


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize(("position", "offset"), [(0, 0), (17, 2)])
def test_position_embedding(quantized, position, offset, run_kernel, random, nan):
    table = random.integers(0, 16, (35, 32)).astype(np.uint8)
    if quantized:
        weight = layout.QuantizedWeight(35, 32, 4, 32, 0, "", "float32")
        buffers = {"codes": layout.pack_codes(table, weight)}
        buffers["scales"] = layout.pack_groups(np.ones((35, 1)), weight, "float32")
        kernel = QuantizedEmbedding(weight, 48, "positions", offset)
    else:
        weight = layout.FloatWeight(35, 32, "float32")
        buffers = {"weight": layout.pack_float(table.astype(np.float32), weight)}
        kernel = FloatEmbedding(weight, 48, "positions", offset)
    assert "tokens" not in kernel.pointers
    done = run_kernel(kernel, buffers | {"result": nan(5, 48)}, count=5, position=position, workers=2)
    rows = np.arange(5) + position + offset
    np.testing.assert_array_equal(done["result"][:, :32], embedding(rows, table.astype(np.float64)))
    assert (done["result"][:, 32:] == 0).all()
