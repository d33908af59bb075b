"""Attention of one token; `combine` joins the workers' parts.

1. the visible positions are split over the workers, so every worker is busy whatever the number of heads;
   each leaves an unnormalised output, its largest score and its sum of weights (flash decoding: Dao et al.
   2023);
2. a key or value is read from memory once for all the query heads that share it: where they exceed the
   registers, they go over a block of 16 positions in groups of heads and vectors;
3. the worker that owns the last block appends the token's own key and value: no barrier before attending.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.attention.heads import BLOCK, Heads
from intaglio.kernels.attention.operands import stored_arithmetic
from intaglio.kernels.attention.preparation import Preparation
from intaglio.kernels.attention.products import Products, QueryState
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import LANES, Expression, KernelFrame, tirx

AHEAD = 32  # positions asked for in the beginning; what follows, the processor foresees better
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
        writer.prefetch()
        with T.serial(self.heads.kv_heads) as kv_head:
            writer.append_if_mine(kv_head)
            for first in range(0, self.heads.repeat, MOST_HEADS):
                writer.attend(kv_head, first, min(MOST_HEADS, self.heads.repeat - first))


class _Writer:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, heads: Heads, frame: KernelFrame, instructions: Instructions) -> None:
        self.heads, self.frame = heads, frame
        self.wide = instructions.wide
        self.preparation = Preparation(heads, frame)
        self.row = frame.worker if heads.own else tir.int32(0)
        shape = (frame.workers, heads.heads)
        self.partial = frame.buffer("partial", (*shape, heads.head_dim), "float32")
        self.statistics = frame.buffer("statistics", (*shape, 2), "float32")
        self.arithmetic = stored_arithmetic(heads, instructions)
        sums = instructions.registers // 2
        self.products = Products(self.preparation, frame.position, sums, self.arithmetic)
        start = tirx.floordiv(self.products.first_position, tir.int32(LANES))
        blocks = tir.bind(tirx.floordiv(frame.position + tir.int32(LANES), tir.int32(LANES)))
        share = tir.bind(tirx.floordiv(blocks - start + frame.workers - tir.int32(1), frame.workers))
        self.blocks = blocks
        self.first_block = tir.bind(tirx.Min(start + frame.worker * share, blocks))
        self.block_count = tir.bind(tirx.Min(share, blocks - self.first_block))

    def prefetch(self) -> None:
        """Ask for what comes first of every head, all of a short context, while queries are prepared."""
        heads, storage = self.heads, self.preparation.storage
        self.preparation.prefetch_angles(self.frame.position)
        soon = tir.bind(tirx.Min(self.block_count, tir.int32(AHEAD // LANES)))
        with T.serial(heads.kv_heads) as kv_head, T.serial(soon) as step:
            block = tir.bind(self.first_block + step)
            with T.serial(heads.key_words) as word:
                storage.prefetch_key(kv_head, block, word)
            with T.serial(LANES // heads.unit) as row:
                at = tir.bind(block * tir.int32(LANES // heads.unit) + row)
                for first in range(0, heads.head_dim, LANES):
                    storage.prefetch_value(kv_head, at, first)

    def append_if_mine(self, kv_head: Expression) -> None:
        """Cache the token if this worker attends to it."""
        end = self.first_block + self.block_count
        with T.If(tirx.all(self.block_count > tir.int32(0), end.equal(self.blocks))), T.Then():
            self.preparation.append(self.row, kv_head, self.frame.position)

    def attend(self, kv_head: Expression, first: int, width: int) -> None:
        """`width` query heads of one key head, over this worker's blocks."""
        head = tir.bind(kv_head * tir.int32(self.heads.repeat) + tir.int32(first))
        # One head's softmax hides behind the next block's scores, which larger blocks would keep too far off;
        # with few registers, LLVM makes larger blocks spill in the loops of other kernels, too.
        together = BLOCK // LANES if width > 1 and self.wide else 1
        state = [QueryState(self.heads, together * LANES, self.arithmetic) for _ in range(width)]
        for row, one in enumerate(state):
            one.clear()
            position = self.frame.position
            self.preparation.query(self.row, head + tir.int32(row), position, one.keep_query)
            one.pack_query(self.arithmetic)
        steps = tirx.floordiv(self.block_count + tir.int32(together - 1), tir.int32(together))
        with T.serial(steps) as step:
            done = tir.bind(step * tir.int32(together))
            block = tir.bind(self.first_block + done)
            blocks = tir.bind(tirx.Min(tir.int32(together), self.block_count - done))
            self.products.scores(state, kv_head, block, blocks)
            for one in state:
                one.softmax.update()
            self.products.accumulate(state, kv_head, tir.bind(block * tir.int32(LANES)), blocks)
        for row, one in enumerate(state):
            self.write(head + tir.int32(row), one)

    def write(self, head: Expression, state: QueryState) -> None:
        """Leave one head's part for `CombineAttention`."""
        at = [self.frame.worker, head]
        tir.store(self.statistics, [*at, 0], state.softmax.largest[0])
        tir.store(self.statistics, [*at, 1], state.softmax.sum())
        for first in range(0, self.heads.head_dim, self.heads.lanes):
            tir.store(self.partial, [*at, first], state.output.load(first))
