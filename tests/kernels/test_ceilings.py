"""The kernels that ceilings are measured with do all the work that is counted."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from intaglio.kernels.ceilings.kernel import MultiplyInCache, ReadMemory
from intaglio.kernels.ceilings.reference import multiply_in_cache, read_memory
from intaglio.kernels.ceilings.sizes import PARTS, STEPS, TOKENS, operations


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_every_block_is_read_once(run_kernel, random, blocks, workers):
    data = random.integers(-(2**31), 2**31, (blocks, 1024), dtype=np.int32)
    buffers = {"data": data, "result": np.full((workers, 16), -1, np.int32)}
    found = run_kernel(ReadMemory(), buffers, count=blocks, workers=workers)["result"]
    np.testing.assert_array_equal(found, read_memory(data, workers))


def run_products(run_kernel, product, vectors, factors, dtype, workers):
    kernel = MultiplyInCache(product)
    operand = np.dtype(kernel.pointers["vectors"])
    result = np.zeros((workers, TOKENS, PARTS, 16), dtype)
    buffers = {"vectors": vectors.view(operand), "factors": factors.view(operand), "result": result}
    found = run_kernel(kernel, buffers, count=3, workers=workers)["result"]
    expected = multiply_in_cache(
        vectors.reshape(STEPS, PARTS, 16, -1), factors.reshape(STEPS, TOKENS, -1), count=3
    )
    return found, expected


@pytest.mark.parametrize("workers", [1, 2])
def test_bytes_are_exact(run_kernel, random, workers):
    vectors = random.integers(0, 256, (STEPS, PARTS, 64), dtype=np.uint8)
    factors = random.integers(-127, 128, (STEPS, TOKENS, 4), dtype=np.int8)
    found, expected = run_products(run_kernel, "bytes", vectors, factors, np.int32, workers)
    for one in found:
        np.testing.assert_array_equal(one, expected)


@pytest.mark.parametrize(("product", "element"), [("bfloat16", ml_dtypes.bfloat16), ("float", np.float32)])
def test_floats_are_summed_in_float32(run_kernel, random, product, element):
    lanes = 32 if product == "bfloat16" else 16
    vectors = random.standard_normal((STEPS, PARTS, lanes)).astype(element)
    factors = random.standard_normal((STEPS, TOKENS, lanes // 16)).astype(element)
    found, expected = run_products(run_kernel, product, vectors, factors, np.float32, 1)
    # 384 additions of numbers near 1, each rounded to 2⁻²⁴ of a sum of about 20.
    np.testing.assert_allclose(found[0], expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("product", ["bytes", "bfloat16", "float"])
def test_operations_are_those_of_the_reference(product):
    elements = {"bytes": 4, "bfloat16": 2, "float": 1}[product]
    assert operations(product) == 2 * TOKENS * PARTS * STEPS * 16 * elements
