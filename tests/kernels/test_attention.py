"""The attention kernels against their references, on odd sizes and NaN-filled buffers."""

from __future__ import annotations

import numpy as np
import pytest

from intaglio.kernels.attention.cache import Heads, RotateAndCache
from intaglio.kernels.attention.combine import CombineAttention
from intaglio.kernels.attention.decode import DecodeAttention
from intaglio.kernels.attention.prefill import PrefillAttention
from intaglio.kernels.attention.reference import causal_attention
from intaglio.kernels.rotary_embedding.reference import rotate, tables

SIZES = [(9, 3, 64), (4, 4, 20), (8, 1, 128), (3, 1, 8)]
CAPACITY = 256


class Case:
    """Random projections of `tokens` tokens after `position` others, and what must come out."""

    def __init__(
        self, sizes: tuple[int, int, int], position: int, tokens: int, random: np.random.Generator
    ) -> None:
        heads, kv_heads, size = sizes
        self.stride = -(-(heads + 2 * kv_heads) * size // 16) * 16
        self.heads = Heads(heads, kv_heads, size, CAPACITY, self.stride)
        self.cosine, self.sine = (table.astype(np.float32) for table in tables(CAPACITY, size, 10000.0))
        everything = position + tokens
        rows = random.normal(size=(everything, heads + 2 * kv_heads, size)).astype(np.float32)
        q, k, v = np.split(rows.astype(np.float64), [heads, heads + kv_heads], axis=1)
        cosine, sine = self.cosine[:everything].astype(np.float64), self.sine[:everything].astype(np.float64)
        q, k = (rotate(part.swapaxes(0, 1), cosine, sine) for part in (q, k))
        self.k, self.v = k, v.swapaxes(0, 1)
        self.expected = (
            causal_attention(q[:, position:], k, self.v, position).swapaxes(0, 1).reshape(tokens, -1)
        )
        self.rotated = q[:, position:] / np.sqrt(size)
        self.projection = np.full((tokens + 8, self.stride), np.nan, np.float32)
        self.projection[:tokens, : rows[0].size] = rows[position:].reshape(tokens, -1)
        self.cache = {
            name: np.full(kv_heads * CAPACITY * size, np.nan, np.float32) for name in ("keys", "values")
        }
        self.fill(position)

    def fill(self, positions: int) -> None:
        """Put the first `positions` keys and values into the cache, as the kernels lay it out."""
        keys, values = self.views(self.cache)
        for position in range(positions):
            keys[:, position // 16, :, position % 16] = self.k[:, position]
            values[:, position] = self.v[:, position]

    def views(self, buffers: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        heads = self.heads
        keys = buffers["keys"].reshape(heads.kv_heads, CAPACITY // 16, heads.head_dim, 16)
        return keys, buffers["values"].reshape(heads.kv_heads, CAPACITY, heads.head_dim)

    @property
    def buffers(self) -> dict[str, np.ndarray]:
        return {"projection": self.projection, "cosines": self.cosine, "sines": self.sine, **self.cache}


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("position", [0, 15, 16, 77])
def test_decode(sizes, position, run_kernel, random, nan):
    case, workers = Case(sizes, position, 1, random), 2
    heads, size = sizes[0], sizes[2]
    parts = {"partial": nan(workers, heads, size), "statistics": nan(workers, heads, 2)}
    done = run_kernel(DecodeAttention(case.heads), case.buffers | parts, position=position, workers=workers)
    keys, values = case.views(done)
    np.testing.assert_allclose(
        keys[:, position // 16, :, position % 16], case.k[:, position], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(values[:, position], case.v[:, position].astype(np.float32))
    stride = -(-heads * size // 16) * 16
    combine = CombineAttention(case.heads, stride)
    joined = run_kernel(combine, {**done, "result": nan(workers, stride)}, workers=workers)["result"]
    for row in joined:
        np.testing.assert_allclose(row[: heads * size], case.expected[0], rtol=2e-5, atol=2e-6)
        assert (row[heads * size :] == 0).all()


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("position", "tokens"), [(0, 1), (0, 67), (61, 9), (5, 128)])
def test_prefill(sizes, position, tokens, run_kernel, random, nan):
    case = Case(sizes, position, tokens, random)
    done = run_kernel(RotateAndCache(case.heads), case.buffers, count=tokens, position=position, workers=2)
    rotated = done["projection"][:tokens, : sizes[0] * sizes[2]].reshape(tokens, sizes[0], sizes[2])
    np.testing.assert_allclose(rotated, case.rotated.swapaxes(0, 1), rtol=1e-5, atol=1e-6)
    stride = -(-sizes[0] * sizes[2] // 16) * 16
    kernel = PrefillAttention(case.heads, stride)
    result = run_kernel(
        kernel, {**done, "result": nan(tokens + 8, stride)}, count=tokens, position=position, workers=2
    )
    found = result["result"][:tokens, : sizes[0] * sizes[2]]
    np.testing.assert_allclose(found, case.expected, rtol=2e-5, atol=2e-6)


def test_large_scores_do_not_overflow(run_kernel, random, nan):
    """Scores of several hundred: e^x alone would be infinite."""
    case = Case((2, 1, 16), 0, 40, random)
    case.projection *= 30
    heads = case.heads
    rows = case.projection[:40, :64].astype(np.float64).reshape(40, 4, 16).swapaxes(0, 1)
    cosine, sine = case.cosine[:40].astype(np.float64), case.sine[:40].astype(np.float64)
    q, k = rotate(rows[:2], cosine, sine), rotate(rows[2:3], cosine, sine)
    expected = causal_attention(q, k, rows[3:], 0).swapaxes(0, 1).reshape(40, -1)
    done = run_kernel(RotateAndCache(heads), case.buffers, count=40)
    found = run_kernel(PrefillAttention(heads, 32), {**done, "result": nan(48, 32)}, count=40)["result"][:40]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
