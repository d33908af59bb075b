"""A tile of queries on its way over the cache."""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.attention.heads import BLOCK, Heads
from intaglio.kernels.attention.memory import Memory
from intaglio.kernels.attention.operands import arithmetic_for, operands_for
from intaglio.kernels.attention.packed_storage import storage_of
from intaglio.kernels.attention.scores import LOWEST
from intaglio.kernels.attention.tile_scores import TileScores
from intaglio.kernels.attention.tiling import Scratch, scratch_floats, tiling_of
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import LANES, Expression, KernelFrame, tirx


class Tile:
    """Views of a call's buffers, and the code over them.

    A row is a query: token `row / repeat` of the tile, head `row % repeat` of the key head. Register tiles of
    some rows go over a block one after another, their state being in memory meanwhile; so does the code,
    which is there once.
    """

    def __init__(self, heads: Heads, stride: int, frame: KernelFrame, instructions: Instructions) -> None:
        self.heads, self.frame = heads, frame
        self.tiling = tiling_of(instructions)
        self.scratch = Scratch(heads, self.tiling)
        self.memory = Memory(frame, "scratch", scratch_floats(heads))
        tokens = frame.count + tir.int32(8)
        self.projection = frame.buffer("projection", (tokens, heads.stride), "float32")
        self.result = frame.buffer("result", (tokens, stride), "float32")
        self.storage = storage_of(heads, frame)
        self.arithmetic = arithmetic_for(heads, instructions)
        self.operands = operands_for(self.storage, self.arithmetic, self.memory, self.scratch)

    def begin(self, kv_head: Expression, start: Expression, tokens: Expression) -> None:
        """Turn to `tokens` tokens of the call, from `start` on, and the query heads of a key head."""
        self.kv_head, self.start, self.tokens = kv_head, start, tokens
        rows, size = tokens * tir.int32(self.heads.repeat), tir.int32(self.tiling.rows)
        self.groups = tir.bind(tirx.floordiv(rows + size - tir.int32(1), size))
        with T.serial(self.groups * size) as row:
            self._begin_row(row)
        with T.serial(self.groups) as group:
            at = tir.int32(self.scratch.largest) + group * tir.int32(LANES)
            self.memory.store(at, tir.spread(tir.float32(LOWEST)))

    def _begin_row(self, row: Expression) -> None:
        """Pack a query, and clear its output; rows beyond the last token repeat it."""
        token, head = self._query_of(row)
        token = tirx.Min(token, self.tokens - tir.int32(1))
        at = tir.bind(row * tir.int32(self.scratch.columns))
        column = tir.bind(head * tir.int32(self.heads.head_dim))
        for first in range(0, self.scratch.columns, LANES):
            packed = self.arithmetic.pack(self._query(tir.bind(self.start + token), column, first))
            self.memory.store(at + tir.int32(first // self.arithmetic.unit), packed)
            self.memory.store(at + tir.int32(self.scratch.outputs + first), tir.zeros())
        self.memory.store(tir.int32(self.scratch.totals) + row * tir.int32(LANES), tir.zeros())

    def _query_of(self, row: Expression) -> tuple[Expression, Expression]:
        """Token of the tile, head of all."""
        repeat = tir.int32(self.heads.repeat)
        return tirx.floordiv(row, repeat), self.kv_head * repeat + tirx.floormod(row, repeat)

    def _query(self, token: Expression, column: Expression, first: int) -> Expression:
        """Sixteen components, zeros beyond the head."""
        if first + LANES <= self.heads.head_dim:
            return tir.bind(tir.load(self.projection, [token, column + tir.int32(first)]))
        padded, lanes = tir.local((LANES,)), self.heads.lanes
        tir.store(padded, [0], tir.zeros())
        for at in range(first, self.heads.head_dim, lanes):
            part = tir.load(self.projection, [token, column + tir.int32(at)], lanes)
            tir.store(padded, [at - first], part)
        return tir.bind(tir.load(padded, [0]))

    def attend(self, first: Expression, skipped: Expression, rows: Expression) -> None:
        """Go over the block of positions `first …`; its rows of values from `skipped` to `rows` are seen."""
        self.operands.start(self.kv_head, first, skipped, rows)
        step = tir.int32(self.operands.step)
        start, count = tir.bind(skipped * step), tir.bind((rows - skipped) * step)
        position = tir.bind(self.frame.position + self.start)
        hides = first + tir.int32(BLOCK - 1) > position
        if self.heads.window >= 0:
            hides = tirx.any(hides, first < position + self.tokens - tir.int32(1 + self.heads.window))
        hides = tir.bind(hides)
        with T.serial(self.groups) as group:
            scores = TileScores(self, group, first)
            scores.compute(hides, position)
            shrink = scores.weigh()
            for vector in range(0, self.scratch.columns // LANES, self.tiling.vectors):
                end = min(vector + self.tiling.vectors, self.scratch.columns // LANES)
                self._accumulate(scores, shrink, range(vector, end), start, count)

    def _accumulate(
        self, scores: TileScores, shrink: Expression, vectors: range, start: Expression, count: Expression
    ) -> None:
        """Shrink some vectors of the outputs and add weighted values."""
        sums = [[tir.local((LANES,)) for _ in vectors] for _ in range(self.tiling.rows)]
        places = [
            [scores.row(index, self.scratch.outputs, self.scratch.columns) + tir.int32(LANES * vector)
             for vector in vectors]
            for index in range(self.tiling.rows)
        ]  # fmt: skip
        for index, row in enumerate(sums):
            factor = tir.spread(shrink[index])
            for place, one in zip(places[index], row, strict=True):
                tir.store(one, [0], self.memory.load(place) * factor)
        with T.serial(count) as step:
            at = tir.bind(start + step)
            values = [tir.bind(self.operands.value(at, vector)) for vector in vectors]
            for weights, row in zip(scores.weights, sums, strict=True):
                weight = tir.bind(weights[at])
                for value, one in zip(values, row, strict=True):
                    tir.store(one, [0], self.arithmetic.add(tir.load(one, [0]), value, weight))
        for index, row in enumerate(sums):
            for place, one in zip(places[index], row, strict=True):
                self.memory.store(place, tir.load(one, [0]))

    def write(self) -> None:
        """Normalise the outputs into the result."""
        with T.serial(self.tokens * tir.int32(self.heads.repeat)) as row:
            token, head = self._query_of(row)
            total = self.memory.load(tir.int32(self.scratch.totals) + row * tir.int32(LANES))
            inverse = tir.bind(tir.float32(1.0) / tir.sum_tree(total))
            at = tir.bind(row * tir.int32(self.scratch.columns) + tir.int32(self.scratch.outputs))
            lanes, column = self.heads.lanes, tir.bind(head * tir.int32(self.heads.head_dim))
            for first in range(0, self.heads.head_dim, lanes):
                output = self.memory.load(at + tir.int32(first), lanes) * tir.spread(inverse, lanes)
                tir.store(self.result, [self.start + token, column + tir.int32(first)], output)
