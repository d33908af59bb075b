"""Scores and weights of a register tile of queries over a block of positions."""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.attention.heads import BLOCK
from intaglio.kernels.attention.scores import capped, hidden
from intaglio.kernels.attention.softmax import scaled
from intaglio.kernels.tir import LANES, Expression, tirx

if TYPE_CHECKING:
    from intaglio.kernels.attention.prefill_tile import Tile

VECTORS = BLOCK // LANES  # of a block's positions


class TileScores:
    """Register tile `group` of `tile` over the block of positions `first …`."""

    def __init__(self, tile: Tile, group: Expression, first: Expression) -> None:
        self.tile, self.group, self.first = tile, group, first
        self.indices = range(tile.tiling.rows)
        self.start = tir.bind(group * tir.int32(tile.tiling.rows))
        self.scores = [[tir.local((LANES,)) for _ in range(VECTORS)] for _ in self.indices]
        self.weights = [tir.local((BLOCK // tile.arithmetic.unit,)) for _ in self.indices]

    def row(self, index: int, offset: int, stride: int) -> Expression:
        """The place in scratch of row `index` of an array at `offset`."""
        return tir.int32(offset) + (self.start + tir.int32(index)) * tir.int32(stride)

    def compute(self, hides: Expression, position: Expression) -> None:
        """Scores; where the block `hides` some positions from some queries, these are out of sight."""
        for vector in range(0, VECTORS, self.tile.tiling.vectors):
            self._products(range(vector, vector + self.tile.tiling.vectors))
        self._scale()
        with T.If(hides), T.Then():
            self._hide(position)

    def _products(self, vectors: range) -> None:
        tile = self.tile
        for row in self.scores:
            for vector in vectors:
                tir.store(row[vector], [0], tir.zeros())
        queries = [self.row(index, 0, tile.scratch.columns) for index in self.indices]
        words = tile.heads.key_words * tile.heads.unit // tile.arithmetic.unit
        with T.serial(words) as word:
            keys = [tir.bind(tile.operands.key(word, vector)) for vector in vectors]
            for query, row in zip(queries, self.scores, strict=True):
                factor = tir.bind(tile.memory.load(query + word, 1))
                for key, vector in zip(keys, vectors, strict=True):
                    one = row[vector]
                    tir.store(one, [0], tile.arithmetic.add(tir.load(one, [0]), key, factor))

    def _scale(self) -> None:
        """Scales of keys, and a soft cap."""
        tile = self.tile
        for vector in range(VECTORS):
            scales = tile.storage.key_scales(tile.kv_head, self.first + tir.int32(vector * LANES))
            if scales is None and tile.heads.softcap <= 0:
                continue
            scales = None if scales is None else tir.bind(scales)
            for row in self.scores:
                score = tir.load(row[vector], [0])
                score = score if scales is None else score * scales
                tir.store(row[vector], [0], capped(tile.heads, score))

    def _hide(self, position: Expression) -> None:
        repeat = tir.int32(self.tile.heads.repeat)
        for index, row in zip(self.indices, self.scores, strict=True):
            own = tir.bind(position + tirx.floordiv(self.start + tir.int32(index), repeat))
            for vector, one in enumerate(row):
                first = self.first + tir.int32(vector * LANES)
                tir.store(one, [0], hidden(self.tile.heads, tir.load(one, [0]), first, own))

    def weigh(self) -> Expression:
        """Scores become weights; a buffer of factors by which the rows' outputs so far shrink."""
        tile, memory = self.tile, self.tile.memory
        place = tir.bind(tir.int32(tile.scratch.largest) + self.group * tir.int32(LANES))
        peaks, shrink = tir.local((LANES,)), tir.local((LANES,))
        before = tir.bind(memory.load(place))
        tir.store(peaks, [0], before)
        for index, row in zip(self.indices, self.scores, strict=True):
            peak = tir.max_lanes(functools.reduce(tirx.Max, [tir.load(one, [0]) for one in row]))
            tir.store(peaks, [index], tirx.Max(memory.load(place + tir.int32(index), 1), peak))
        after = tir.bind(tir.load(peaks, [0]))
        memory.store(place, after)
        tir.store(shrink, [0], tir.exponential(before - after))
        scales = [self._value_scales(vector) for vector in range(VECTORS)]
        for index in self.indices:
            self._weigh_row(index, peaks[index], shrink[index], scales)
        return shrink

    def _value_scales(self, vector: int) -> Expression | None:
        found = self.tile.storage.value_scales(self.tile.kv_head, self.first + tir.int32(vector * LANES))
        return None if found is None else tir.bind(found)

    def _weigh_row(
        self, index: int, peak: Expression, shrink: Expression, scales: list[Expression | None]
    ) -> None:
        tile = self.tile
        differences = [tir.load(one, [0]) - tir.spread(tir.bind(peak)) for one in self.scores[index]]
        parts = [tile.arithmetic.exponential(one) for one in differences]
        place = self.row(index, tile.scratch.totals, LANES)
        total = tile.memory.load(place) * tir.spread(shrink) + functools.reduce(operator.add, parts)
        tile.memory.store(place, total)
        for vector, (part, factors) in enumerate(zip(parts, scales, strict=True)):
            packed = tile.arithmetic.pack(part if factors is None else scaled(part, factors))
            tir.store(self.weights[index], [vector * LANES // tile.arithmetic.unit], packed)
