"""Attention of one token; `combine` joins the workers' parts.

1. the visible positions are split over the workers, so every worker is busy whatever the number of heads;
   each leaves an unnormalised output, its largest score and its sum of weights (flash decoding: Dao et al.
   2023);
2. a key or value is read from memory once for all the query heads that share it: where they exceed the
   registers, they go over a block of 16 positions in groups of heads and vectors;
3. the worker that owns the last block appends the token's own key and value: no barrier before attending.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterator
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.attention.components import Components
from intaglio.kernels.attention.heads import BLOCK, Heads
from intaglio.kernels.attention.preparation import Preparation
from intaglio.kernels.attention.scores import first_visible, masked, out_of_sight
from intaglio.kernels.attention.softmax import OnlineSoftmax
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
        # One head's softmax hides behind the next block's scores, which larger blocks would keep too far off.
        together = 1 if width == 1 else BLOCK // LANES
        state = [_State(self.heads, together * LANES) for _ in range(width)]
        for row, one in enumerate(state):
            position = self.frame.position
            self.preparation.query(self.row, head + tir.int32(row), position, one.keep_query)
        for one in state:
            one.clear()
        steps = tirx.floordiv(self.block_count + tir.int32(together - 1), tir.int32(together))
        with T.serial(steps) as step:
            done = tir.bind(step * tir.int32(together))
            block = tir.bind(self.first_block + done)
            blocks = tir.bind(tirx.Min(tir.int32(together), self.block_count - done))
            for group in _groups(state, self.sums):
                self.scores(group, kv_head, block, blocks)
            for one in state:
                one.softmax.update()
            self.accumulate(state, kv_head, tir.bind(block * tir.int32(LANES)), blocks)
        for row, one in enumerate(state):
            self.write(head + tir.int32(row), one)

    def scores(self, group: list[_State], kv_head: Expression, first: Expression, blocks: Expression) -> None:
        """Scores of some blocks of 16 positions for each head, masked."""
        for state in group:
            state.softmax.hide()
        with T.serial(blocks) as step:
            block = tir.bind(first + step)
            position = block * tir.int32(LANES)
            for state, score in zip(group, self.products(group, kv_head, block), strict=True):
                score = masked(self.heads, score, position, self.frame.position)
                tir.store(state.softmax.weights, [step * tir.int32(LANES)], score)

    def products(self, group: list[_State], kv_head: Expression, block: Expression) -> list[Expression]:
        """Products of each query with a block's 16 keys."""
        unroll = 4 if self.heads.head_dim % 4 == 0 else 2
        # Several chains hide the latency of the multiply-add.
        chains = min(unroll, 4 if len(group) == 1 else 2 if 2 * len(group) <= self.sums else 1)
        sums = [[tir.local((LANES,)) for _ in range(chains)] for _ in group]
        for one in itertools.chain.from_iterable(sums):
            tir.store(one, [0], tir.zeros())
        for part, length in group[0].query.lengths:
            with T.serial(length // unroll) as outer:
                for inner in range(unroll):
                    at = tir.bind(outer * tir.int32(unroll) + tir.int32(inner))
                    component = at + tir.int32(part * group[0].query.part)
                    key = tir.bind(tir.load(self.preparation.keys, [kv_head, block, component, 0]))
                    for state, row in zip(group, sums, strict=True):
                        one, factor = row[inner % chains], tir.spread(state.query.parts[part][at])
                        tir.store(one, [0], tir.fused_multiply_add(key, factor, tir.load(one, [0])))
        return [functools.reduce(operator.add, (tir.load(one, [0]) for one in row)) for row in sums]

    def accumulate(
        self, state: list[_State], kv_head: Expression, first: Expression, blocks: Expression
    ) -> None:
        """Shrink the outputs and add the blocks' weighted values; rows out of sight are never read."""
        end = tirx.Min(blocks * tir.int32(LANES), self.frame.position + tir.int32(1) - first)
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
                shrunk = state.output.load(vector * lanes) * tir.spread(state.softmax.shrink[0], lanes)
                tir.store(one, [0], shrunk)
        with T.serial(count) as step:
            position = skipped + step
            for slot, vector in enumerate(vectors):
                at = [kv_head, first + position, vector * lanes]
                value = tir.bind(tir.load(self.preparation.values, at, lanes))
                for state, row in zip(group, sums, strict=True):
                    factor = tir.spread(state.softmax.weights[position], lanes)
                    running = tir.load(row[slot], [0], lanes)
                    tir.store(row[slot], [0], tir.fused_multiply_add(value, factor, running, lanes))
        for state, row in zip(group, sums, strict=True):
            for vector, one in zip(vectors, row, strict=True):
                state.output.store(vector * lanes, tir.load(one, [0], lanes))

    def write(self, head: Expression, state: _State) -> None:
        """Leave one head's part for `CombineAttention`."""
        at = [self.frame.worker, head]
        tir.store(self.statistics, [*at, 0], state.softmax.largest[0])
        tir.store(self.statistics, [*at, 1], state.softmax.sum())
        for first in range(0, self.heads.head_dim, self.heads.lanes):
            tir.store(self.partial, [*at, first], state.output.load(first))


class _State:
    """What one query head carries from block to block."""

    def __init__(self, heads: Heads, positions: int) -> None:
        self.query, self.output = Components(heads), Components(heads)
        self.softmax = OnlineSoftmax(positions)

    def keep_query(self, first: int, vector: Expression, _lanes: int) -> None:
        """The sink of `Preparation.query`."""
        self.query.store(first, vector)

    def clear(self) -> None:
        """Before the first block."""
        self.softmax.clear()
        self.output.clear()


def _groups(state: list[_State], size: int) -> Iterator[list[_State]]:
    """Consecutive heads, at most `size` at a time, in groups of nearly equal size."""
    groups = -(-len(state) // size)
    for index in range(groups):
        yield state[len(state) * index // groups : len(state) * (index + 1) // groups]
