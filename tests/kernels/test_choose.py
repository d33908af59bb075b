"""The likeliest tokens: maxima of blocks against slices, and the selection against a stable sort."""

from __future__ import annotations

import numpy as np
import pytest

from intaglio.kernels.choose.kernel import BlockMaxima
from intaglio.kernels.choose.reference import block_maxima
from intaglio.kernels.choose.selection import BLOCK, likeliest, likeliest_by_blocks


@pytest.mark.parametrize("columns", [1, 16, 63, 64, 300, 1024])
@pytest.mark.parametrize("workers", [1, 2])
def test_block_maxima(columns, workers, run_kernel, random, nan):
    """What lies between the columns and the stride is larger, and must not be seen."""
    kernel = BlockMaxima(columns, -(-columns // 16) * 16)
    logits = np.full((3, kernel.stride), 99, np.float32)
    logits[:, :columns] = random.normal(size=(3, columns)) - 9
    done = run_kernel(kernel, {"logits": logits, "maxima": nan(3, kernel.padded)}, count=3, workers=workers)
    found = done["maxima"][:, : kernel.blocks]
    np.testing.assert_array_equal(found, block_maxima(logits[:, :columns].astype(float), BLOCK))
    assert np.isnan(done["maxima"][:, kernel.blocks :]).all()


def test_what_is_no_number_is_not_lost(run_kernel, random, nan):
    logits = random.normal(size=(1, 320)).astype(np.float32)
    for place, value in ((3, np.nan), (70, np.nan), (127, np.inf), (130, np.inf), (200, -np.inf)):
        logits[0, place] = value
    logits[0, 256:] = -np.inf
    done = run_kernel(BlockMaxima(320, 320), {"logits": logits, "maxima": nan(1, 16)})["maxima"][0, :5]
    assert (done[:3] == np.inf).all()
    assert done[3] == logits[0, 192:256].max()
    assert done[4] == -np.inf
    assert likeliest_by_blocks(logits[0], done, 1) == [3]


def by_sorting(logits, count):
    return np.argsort(-logits, kind="stable")[:count]


@pytest.mark.parametrize("columns", [1, 63, 64, 65, 500])
@pytest.mark.parametrize("count", [1, 2, 7, 40, 500])
@pytest.mark.parametrize("ties", [False, True])
def test_selection(columns, count, ties, random):
    """Ties, also between blocks and at the last place, go to the lowest token."""
    count = min(count, columns)
    for _ in range(20):
        logits = random.normal(size=columns).astype(np.float32)
        logits = np.round(logits) if ties else logits
        maxima = block_maxima(logits[np.newaxis], BLOCK)[0]
        expected = by_sorting(logits, count)
        np.testing.assert_array_equal(likeliest(logits, count), expected)
        np.testing.assert_array_equal(likeliest_by_blocks(logits, maxima, count), expected)


@pytest.mark.parametrize("count", [1, 3])
def test_the_selection_shows_what_is_no_number(count, random):
    logits = random.normal(size=200).astype(np.float32)
    logits[150] = np.nan
    maxima = block_maxima(logits[np.newaxis], BLOCK)[0]
    assert likeliest(logits, count)[0] == likeliest_by_blocks(logits, maxima, count)[0] == 150
