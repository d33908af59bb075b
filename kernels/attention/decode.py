"""Attention of one token; `combine` joins the workers' parts.

1. positions are split over the workers, so every worker is busy whatever the number of heads; each leaves an
   unnormalised output, its largest score and its sum of weights (flash decoding: Dao et al. 2023);
2. a key or value is read once for all the query heads that share it;
3. the worker that owns the last block appends the token's own key and value: no barrier before attending.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.attention.cache import CACHE_POINTERS, CacheViews, Heads
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import LANES, Expression, KernelFrame, tirx

LOWEST = -1e30  # a score that no position has; −∞ would give NaN in differences


@dataclass(frozen=True)
class DecodeAttention:
    """Rotate, cache and attend for one token at `position`.

    Pointers: projection float32 `[stride]`, cosines, sines, keys, values;
    partial `[workers, heads, head_dim]`; statistics `[workers, heads, 2]`: largest score, sum of weights.
    """

    heads: Heads

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        return {"projection": "float32", **CACHE_POINTERS, "partial": "float32", "statistics": "float32"}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        vectors = self.heads.head_dim // self.heads.lanes
        together = max(1, min(self.heads.repeat, instructions.registers // 2 // vectors))
        writer = _Writer(self.heads, frame)
        with T.serial(self.heads.kv_heads) as kv_head:
            writer.append_if_mine(kv_head)
            for first in range(0, self.heads.repeat, together):
                writer.attend(kv_head, first, min(together, self.heads.repeat - first))


class _Writer:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, heads: Heads, frame: KernelFrame) -> None:
        self.heads, self.frame = heads, frame
        self.views = CacheViews(heads, frame)
        shape = (frame.workers, heads.heads)
        self.partial = frame.buffer("partial", (*shape, heads.head_dim), "float32")
        self.statistics = frame.buffer("statistics", (*shape, 2), "float32")
        blocks = tir.bind(tirx.floordiv(frame.position + tir.int32(LANES), tir.int32(LANES)))
        share = tir.bind(tirx.floordiv(blocks + frame.workers - tir.int32(1), frame.workers))
        self.blocks = blocks
        self.first_block = tir.bind(tirx.Min(frame.worker * share, blocks))
        self.block_count = tir.bind(tirx.Min(share, blocks - self.first_block))

    def append_if_mine(self, kv_head: Expression) -> None:
        """Cache the token if this worker attends to it."""
        end = self.first_block + self.block_count
        with T.If(tirx.all(self.block_count > tir.int32(0), end.equal(self.blocks))), T.Then():
            self.views.append(tir.int32(0), kv_head, self.frame.position)

    def attend(self, kv_head: Expression, first: int, width: int) -> None:
        """`width` query heads of one key head, over this worker's blocks."""
        heads = self.heads
        vectors = heads.head_dim // heads.lanes
        head = tir.bind(kv_head * tir.int32(heads.repeat) + tir.int32(first))
        query = self.queries(head, width)
        output = [tir.local((vectors, heads.lanes)) for _ in range(width)]
        largest, total = tir.local((width,)), tir.local((width, LANES))
        for row in range(width):
            tir.store(largest, [row], tir.float32(LOWEST))
            tir.store(total, [row, 0], tir.zeros())
            for vector in range(vectors):
                tir.store(output[row], [vector, 0], tir.zeros(heads.lanes))
        with T.serial(self.block_count) as step:
            block = tir.bind(self.first_block + step)
            weights = self.softmax(self.scores(query, kv_head, block, width), largest, total, output)
            self.accumulate(weights, kv_head, block, output)
        for row in range(width):
            at = [self.frame.worker, head + tir.int32(row)]
            tir.store(self.statistics, [*at, 0], largest[row])
            tir.store(self.statistics, [*at, 1], tir.sum_lanes(tir.load(total, [row, 0])))
            for vector in range(vectors):
                value = tir.load(output[row], [vector, 0], heads.lanes)
                tir.store(self.partial, [*at, vector * heads.lanes], value)

    def queries(self, head: Expression, width: int) -> list[Expression]:
        """Rotated queries scaled by 1/√head_dim, `[width, head_dim]`."""
        size = self.heads.head_dim
        query = [tir.local((size,)) for _ in range(width)]
        for row in range(width):
            offset = tir.bind((head + tir.int32(row)) * tir.int32(size))
            scale = tir.spread(tir.float32(size**-0.5), self.heads.half_lanes)

            def sink(at: Expression, vector: Expression, row: int = row, scale: Expression = scale) -> None:
                tir.store(query[row], [at], vector * scale)

            self.views.rotate(tir.int32(0), offset, self.frame.position, sink)
        return query

    def scores(
        self, query: list[Expression], kv_head: Expression, block: Expression, width: int
    ) -> list[Expression]:
        """Scores of a block's 16 positions for each head; positions beyond the token are `LOWEST`."""
        size = self.heads.head_dim
        unroll = 4 if size % 4 == 0 else 2
        # Two chains per head hide the latency of the multiply-add.
        sums = tir.local((width, 2, LANES))
        for row in range(width):
            for chain in range(2):
                tir.store(sums, [row, chain, 0], tir.zeros())
        with T.serial(size // unroll) as outer:
            for inner in range(unroll):
                component = tir.bind(outer * tir.int32(unroll) + tir.int32(inner))
                key = tir.bind(tir.load(self.views.keys, [kv_head, block, component, 0]))
                for row in range(width):
                    at = [row, inner % 2, 0]
                    factor = tir.spread(query[row][component])
                    tir.store(sums, at, tir.fused_multiply_add(key, factor, tir.load(sums, at)))
        positions = tirx.Ramp(block * tir.int32(LANES), tir.int32(1), LANES)
        visible = positions <= tir.spread(self.frame.position)
        return [
            tir.bind(
                tirx.Select(
                    visible,
                    tir.load(sums, [row, 0, 0]) + tir.load(sums, [row, 1, 0]),
                    tir.spread(tir.float32(LOWEST)),
                )
            )
            for row in range(width)
        ]

    def softmax(
        self, scores: list[Expression], largest: Expression, total: Expression, output: list[Expression]
    ) -> Expression:
        """Online softmax (Milakov and Gimelshein 2018): rescale the sums so far; weights `[width, 16]`."""
        heads = self.heads
        weights = tir.local((len(scores), LANES))
        for row, score in enumerate(scores):
            peak = tir.bind(tirx.Max(largest[row], tir.max_lanes(score)))
            shrink = tir.bind(tir.exponential(largest[row] - peak, 1))
            weight = tir.bind(tir.exponential(score - tir.spread(peak)))
            tir.store(largest, [row], peak)
            tir.store(weights, [row, 0], weight)
            tir.store(total, [row, 0], tir.load(total, [row, 0]) * tir.spread(shrink) + weight)
            for vector in range(heads.head_dim // heads.lanes):
                value = tir.load(output[row], [vector, 0], heads.lanes) * tir.spread(shrink, heads.lanes)
                tir.store(output[row], [vector, 0], value)
        return weights

    def accumulate(
        self, weights: Expression, kv_head: Expression, block: Expression, output: list[Expression]
    ) -> None:
        """Add the block's weighted values; rows beyond the token are never read."""
        heads = self.heads
        width = int(weights.shape[0])
        first = tir.bind(block * tir.int32(LANES))
        with T.serial(tirx.Min(tir.int32(LANES), self.frame.position + tir.int32(1) - first)) as row_in_block:
            for vector in range(heads.head_dim // heads.lanes):
                at = [kv_head, first + row_in_block, vector * heads.lanes]
                value = tir.bind(tir.load(self.views.values, at, heads.lanes))
                for row in range(width):
                    factor = tir.spread(weights[row, row_in_block], heads.lanes)
                    running = tir.load(output[row], [vector, 0], heads.lanes)
                    tir.store(
                        output[row], [vector, 0], tir.fused_multiply_add(value, factor, running, heads.lanes)
                    )
