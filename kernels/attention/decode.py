"""Attention of one token; `combine` joins the workers' parts.

1. the visible positions are split over the workers, so every worker is busy whatever the number of heads;
   each leaves an unnormalised output, its largest score and its sum of weights (flash decoding: Dao et al.
   2023);
2. a key or value is read from memory once for all the query heads that share it: where they exceed the
   registers, they go over a block of 16 positions in groups of heads and vectors;
3. the worker that owns the last block appends the token's own key and value: no barrier before attending.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.attention.components import Components
from intaglio.kernels.attention.heads import Heads
from intaglio.kernels.attention.preparation import Preparation
from intaglio.kernels.attention.scores import LOWEST, first_visible, masked, out_of_sight
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import LANES, Expression, KernelFrame, tirx

MOST_HEADS = 16  # that go over the cache together: their outputs should stay in the first-level cache


@dataclass(frozen=True)
class DecodeAttention:
    """Prepare, cache and attend for one token at `position`.

    Pointers: projection float32 `[stride]`, or `[workers, stride]` where `heads.own`; `Heads.cache_pointers`;
    partial `[workers, heads, head_dim]`; statistics `[workers, heads, 2]`: largest score, sum of weights.
    """

    heads: Heads

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        parts = {"partial": "float32", "statistics": "float32"}
        return {"projection": "float32", **self.heads.cache_pointers, **parts}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        writer = _Writer(self.heads, frame, instructions)
        with T.serial(self.heads.kv_heads) as kv_head:
            writer.append_if_mine(kv_head)
            for first in range(0, self.heads.repeat, MOST_HEADS):
                writer.attend(kv_head, first, min(MOST_HEADS, self.heads.repeat - first))


class _Writer:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, heads: Heads, frame: KernelFrame, instructions: Instructions) -> None:
        self.heads, self.frame = heads, frame
        self.sums = instructions.registers // 2  # accumulators at a time
        self.preparation = Preparation(heads, frame)
        self.row = frame.worker if heads.own else tir.int32(0)
        shape = (frame.workers, heads.heads)
        self.partial = frame.buffer("partial", (*shape, heads.head_dim), "float32")
        self.statistics = frame.buffer("statistics", (*shape, 2), "float32")
        self.first_position = tir.bind(first_visible(heads, frame.position))
        start = tirx.floordiv(self.first_position, tir.int32(LANES))
        blocks = tir.bind(tirx.floordiv(frame.position + tir.int32(LANES), tir.int32(LANES)))
        share = tir.bind(tirx.floordiv(blocks - start + frame.workers - tir.int32(1), frame.workers))
        self.blocks = blocks
        self.first_block = tir.bind(tirx.Min(start + frame.worker * share, blocks))
        self.block_count = tir.bind(tirx.Min(share, blocks - self.first_block))

    def append_if_mine(self, kv_head: Expression) -> None:
        """Cache the token if this worker attends to it."""
        end = self.first_block + self.block_count
        with T.If(tirx.all(self.block_count > tir.int32(0), end.equal(self.blocks))), T.Then():
            self.preparation.append(self.row, kv_head, self.frame.position)

    def attend(self, kv_head: Expression, first: int, width: int) -> None:
        """`width` query heads of one key head, over this worker's blocks."""
        head = tir.bind(kv_head * tir.int32(self.heads.repeat) + tir.int32(first))
        state = [_State(self.heads) for _ in range(width)]
        for row, one in enumerate(state):
            position = self.frame.position
            self.preparation.query(self.row, head + tir.int32(row), position, one.keep_query)
        for one in state:
            one.clear()
        with T.serial(self.block_count) as step:
            block = tir.bind(self.first_block + step)
            for group in _groups(state, self.sums):
                self.scores(group, kv_head, block)
            for one in state:
                one.softmax()
            self.accumulate(state, kv_head, tir.bind(block * tir.int32(LANES)))
        for row, one in enumerate(state):
            self.write(head + tir.int32(row), one)

    def scores(self, group: list[_State], kv_head: Expression, block: Expression) -> None:
        """Scores of a block's 16 positions for each head, masked, into its weights."""
        unroll = 4 if self.heads.head_dim % 4 == 0 else 2
        # Several chains hide the latency of the multiply-add.
        chains = min(unroll, 4 if len(group) == 1 else 2 if 2 * len(group) <= self.sums else 1)
        sums = [tir.local((chains, LANES)) for _ in group]
        for one in sums:
            for chain in range(chains):
                tir.store(one, [chain, 0], tir.zeros())
        for part, length in group[0].query.lengths:
            with T.serial(length // unroll) as outer:
                for inner in range(unroll):
                    at = tir.bind(outer * tir.int32(unroll) + tir.int32(inner))
                    component = at + tir.int32(part * group[0].query.part)
                    key = tir.bind(tir.load(self.preparation.keys, [kv_head, block, component, 0]))
                    for state, one in zip(group, sums, strict=True):
                        running = tir.load(one, [inner % chains, 0])
                        factor = tir.spread(state.query.parts[part][at])
                        tir.store(one, [inner % chains, 0], tir.fused_multiply_add(key, factor, running))
        first = block * tir.int32(LANES)
        for state, one in zip(group, sums, strict=True):
            score = tir.load(one, [0, 0])
            for chain in range(1, chains):
                score = score + tir.load(one, [chain, 0])
            tir.store(state.weights, [0], masked(self.heads, score, first, self.frame.position))

    def accumulate(self, state: list[_State], kv_head: Expression, first: Expression) -> None:
        """Shrink the outputs and add the block's weighted values; rows out of sight are never read."""
        end = tirx.Min(tir.int32(LANES), self.frame.position + tir.int32(1) - first)
        skipped = tir.bind(out_of_sight(self.heads, self.first_position, first))
        count = tir.bind(end - skipped)
        vectors = self.heads.vectors
        whole = len(state) * vectors <= self.sums
        rows = len(state) if whole or vectors == 1 else max(1, self.sums // 2)
        for group in _groups(state, rows):
            step = max(1, self.sums // len(group))
            for vector in range(0, vectors, step):
                some = range(vector, min(vector + step, vectors))
                self.slice(group, some, kv_head, first, skipped, count)

    def slice(
        self,
        group: list[_State],
        vectors: range,
        kv_head: Expression,
        first: Expression,
        skipped: Expression,
        count: Expression,
    ) -> None:
        """Some vectors of some heads' outputs."""
        lanes = self.heads.lanes
        sums = [[tir.local((lanes,)) for _ in vectors] for _ in group]
        for state, row in zip(group, sums, strict=True):
            for vector, one in zip(vectors, row, strict=True):
                shrunk = state.output.load(vector * lanes) * tir.spread(state.shrink[0], lanes)
                tir.store(one, [0], shrunk)
        with T.serial(count) as step:
            position = skipped + step
            for slot, vector in enumerate(vectors):
                at = [kv_head, first + position, vector * lanes]
                value = tir.bind(tir.load(self.preparation.values, at, lanes))
                for state, row in zip(group, sums, strict=True):
                    factor = tir.spread(state.weights[position], lanes)
                    running = tir.load(row[slot], [0], lanes)
                    tir.store(row[slot], [0], tir.fused_multiply_add(value, factor, running, lanes))
        for state, row in zip(group, sums, strict=True):
            for vector, one in zip(vectors, row, strict=True):
                state.output.store(vector * lanes, tir.load(one, [0], lanes))

    def write(self, head: Expression, state: _State) -> None:
        """Leave one head's part for `CombineAttention`."""
        at = [self.frame.worker, head]
        tir.store(self.statistics, [*at, 0], state.largest[0])
        tir.store(self.statistics, [*at, 1], tir.sum_lanes(tir.load(state.total, [0])))
        for first in range(0, self.heads.head_dim, self.heads.lanes):
            tir.store(self.partial, [*at, first], state.output.load(first))


class _State:
    """What one query head carries from block to block."""

    def __init__(self, heads: Heads) -> None:
        self.query, self.output = Components(heads), Components(heads)
        self.weights, self.total = tir.local((LANES,)), tir.local((LANES,))
        self.largest, self.shrink = tir.local((1,)), tir.local((1,))

    def keep_query(self, first: int, vector: Expression, _lanes: int) -> None:
        """The sink of `Preparation.query`."""
        self.query.store(first, vector)

    def clear(self) -> None:
        """Before the first block."""
        tir.store(self.largest, [0], tir.float32(LOWEST))
        tir.store(self.total, [0], tir.zeros())
        self.output.clear()

    def softmax(self) -> None:
        """Scores become weights, `shrink` the output's factor: online softmax (Milakov, Gimelshein 2018)."""
        score = tir.bind(tir.load(self.weights, [0]))
        peak = tir.bind(tirx.Max(self.largest[0], tir.max_lanes(score)))
        shrink = tir.bind(tir.exponential(self.largest[0] - peak, 1))
        weight = tir.bind(tir.exponential(score - tir.spread(peak)))
        tir.store(self.largest, [0], peak)
        tir.store(self.shrink, [0], shrink)
        tir.store(self.weights, [0], weight)
        tir.store(self.total, [0], tir.load(self.total, [0]) * tir.spread(shrink) + weight)


def _groups(state: list[_State], size: int) -> Iterator[list[_State]]:
    """Consecutive heads, at most `size` at a time, in groups of nearly equal size."""
    groups = -(-len(state) // size)
    for index in range(groups):
        yield state[len(state) * index // groups : len(state) * (index + 1) // groups]
