"""Learned positions of several sequences: the rows of a table that the caller gives, and an offset."""

from __future__ import annotations

import numpy as np
import pytest

from intaglio.kernels.embedding.kernel import FloatEmbedding, QuantizedEmbedding
from intaglio.kernels.linear import layout

POSITIONS = np.array([11, 0, 32, 5, 5], np.int32)
OFFSET = 2


@pytest.mark.parametrize("quantized", [False, True])
def test_given_rows(quantized, run_kernel, random, nan):
    table = random.integers(0, 16, (35, 32)).astype(np.uint8)
    if quantized:
        weight = layout.QuantizedWeight(35, 32, 4, 32, 0, "", "float32")
        buffers = {"codes": layout.pack_codes(table, weight)}
        buffers["scales"] = layout.pack_groups(np.ones((35, 1)), weight, "float32")
        kernel = QuantizedEmbedding(weight, 48, "rows", OFFSET)
    else:
        weight = layout.FloatWeight(35, 32, "float32")
        buffers = {"weight": layout.pack_float(table.astype(np.float32), weight)}
        kernel = FloatEmbedding(weight, 48, "rows", OFFSET)
    buffers |= {"tokens": POSITIONS, "result": nan(5, 48)}
    done = run_kernel(kernel, buffers, count=5, position=9, workers=2)["result"]
    np.testing.assert_array_equal(done[:, :32], table[POSITIONS + OFFSET])
    assert (done[:, 32:] == 0).all()
