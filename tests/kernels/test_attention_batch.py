"""Attention over several sequences at once: against float64, caches of every type in slots of any order."""

from __future__ import annotations

import numpy as np
import pytest

from intaglio.kernels.attention.batch import BatchAttention
from intaglio.kernels.attention.heads import CACHES, Heads
from intaglio.kernels.attention.reference import causal_attention, prepare
from intaglio.kernels.attention.reference_cache import RELATIVE_STEP, pack_cache, unpack_cache
from intaglio.kernels.rotary_embedding.reference import tables

CAPACITY = 128
POSITIONS = (0, 17, 63, 127, 16)  # of the rows; one slot more is in nobody's use
SLOTS = (4, 0, 5, 2, 1)
CASES = {
    "llama": (6, 2, 32, {}),
    "windows": (4, 4, 20, {"window": 5, "bias": True, "scale": 0.05}),
    "norms": (4, 2, 48, {"query_norm": 1e-6, "key_norm": 1e-5, "rotary_dim": 32, "interleaved": True}),
    "one-key-head": (20, 1, 18, {"softcap": 4.0, "rotary_dim": 0}),
}


class Batch:
    """Random projections for sequences of `POSITIONS` tokens, and what must come out."""

    def __init__(self, name: str, cache: str, random: np.random.Generator) -> None:
        heads, kv_heads, size, options = CASES[name]
        self.columns = (heads + 2 * kv_heads) * size
        stride = -(-self.columns // 16) * 16
        self.heads = Heads(heads, kv_heads, size, CAPACITY, stride, **options, cache=cache)
        half = self.heads.rotated // 2
        angles = (one.astype(np.float32) for one in tables(CAPACITY, 2 * half, 10000.0))
        self.shared = dict(zip(("cosines", "sines"), angles, strict=True)) | {
            "bias": random.normal(size=stride).astype(np.float32),
            "query_norm": random.uniform(0.5, 1.5, size).astype(np.float32),
            "key_norm": random.uniform(0.5, 1.5, size).astype(np.float32),
        }
        self.rows = [random.normal(size=(one + 1, self.columns)).astype(np.float32) for one in POSITIONS]
        self.prepared = [self.prepare(rows.astype(np.float64)) for rows in self.rows]

    def prepare(self, rows: np.ndarray) -> list[np.ndarray]:
        """Queries of the last row, keys and values of all, `[heads, tokens, head_dim]`."""
        heads, given = self.heads, {name: one.astype(np.float64) for name, one in self.shared.items()}
        rows = rows + given["bias"][: self.columns] if heads.bias else rows
        parts = rows.reshape(len(rows), -1, heads.head_dim).swapaxes(0, 1)
        q, k, v = np.split(parts, [heads.heads, heads.heads + heads.kv_heads])
        angles = [given[name][: len(rows)] for name in ("cosines", "sines")]

        def turned(part: np.ndarray, norm: str) -> np.ndarray:
            epsilon = getattr(heads, norm)
            weight = None if epsilon is None else given[norm]
            return prepare(
                part, *angles, weight=weight, epsilon=epsilon or 0.0, interleaved=heads.interleaved
            )

        return [turned(q, "query_norm")[:, -1:], turned(k, "key_norm"), v]

    def buffers(self, nan) -> dict[str, np.ndarray]:
        """What the kernel reads; NaN wherever nothing was written."""
        projection = nan(len(POSITIONS) + 8, self.heads.stride)
        caches = [self.cache(None, 0)] * (len(SLOTS) + 1)
        for row, (slot, rows) in enumerate(zip(SLOTS, self.rows, strict=True)):
            projection[row, : self.columns] = rows[-1]
            caches[slot] = self.cache(self.prepared[row], POSITIONS[row])
        joined = {name: np.concatenate([one[name].reshape(-1) for one in caches]) for name in caches[0]}
        places = {"positions": np.array(POSITIONS, np.int32), "slots": np.array(SLOTS, np.int32)}
        return self.shared | joined | places | {"projection": projection}

    def cache(self, prepared: list[np.ndarray] | None, count: int) -> dict[str, np.ndarray]:
        """`count` tokens of a sequence in the kernels' layout."""
        heads = self.heads
        keys, values = (np.full((heads.kv_heads, CAPACITY, heads.head_dim), np.nan) for _ in range(2))
        if prepared is not None:
            keys[:, :count], values[:, :count] = prepared[1][:, :count], prepared[2][:, :count]
        with np.errstate(invalid="ignore"):
            return pack_cache(keys, values, heads)

    def expected(self, row: int, done: dict[str, np.ndarray]) -> np.ndarray:
        """What follows from the cache that the kernel left, whose rounding others test."""
        heads, end = self.heads, POSITIONS[row] + 1
        sizes = {name: len(done[name].reshape(-1)) // (len(SLOTS) + 1) for name in heads.storage_pointers}
        own = {
            name: done[name].reshape(-1)[SLOTS[row] * size :][:size].reshape(self.cache(None, 0)[name].shape)
            for name, size in sizes.items()
        }
        keys, values = unpack_cache(own, heads)
        for found, wanted in ((keys, self.prepared[row][1]), (values, self.prepared[row][2])):
            largest = np.abs(wanted[:, -1]).max(axis=-1, keepdims=True)
            step = largest / 254 if heads.scaled else np.abs(wanted[:, -1]) * RELATIVE_STEP[heads.cache]
            assert (np.abs(found[:, end - 1] - wanted[:, -1]) <= step * 1.0001 + 4e-6 * largest).all()
        options = {"scale": heads.scale, "softcap": heads.softcap, "window": heads.window}
        seen = (np.nan_to_num(one[:, :end]) for one in (keys, values))
        return causal_attention(self.prepared[row][0], *seen, end - 1, **options).reshape(-1)


def check(name: str, cache: str, run_kernel, random, nan, tolerance: float) -> None:
    batch = Batch(name, cache, random)
    width = batch.heads.heads * batch.heads.head_dim
    stride = -(-width // 16) * 16
    kernel = BatchAttention(batch.heads, stride)
    for workers in (1, 2):
        buffers = batch.buffers(nan) | {"result": nan(len(POSITIONS) + 8, stride)}
        done = run_kernel(kernel, buffers, count=len(POSITIONS), workers=workers)
        for row in range(len(POSITIONS)):
            expected = batch.expected(row, done)
            error = np.abs(done["result"][row, :width] - expected).max()
            assert error <= tolerance * np.abs(expected).max()
            assert not done["result"][row, width:].any()
        assert np.isnan(done["result"][len(POSITIONS) :]).all()


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("name", CASES)
def test_batch_attention(name, cache, run_kernel, random, nan):
    check(name, cache, run_kernel, random, nan, 2e-5)


@pytest.mark.parametrize("target", ["cpu:avx512-bf16"], indirect=True)
@pytest.mark.parametrize("name", ["llama", "norms"])
def test_pairs_of_bfloat16(name, target, run_kernel, random, nan):
    """Queries and weights are rounded to eight bits: half of 2⁻⁸ each, of sums whose terms differ in sign."""
    check(name, "bf16", run_kernel, random, nan, 1e-2)
