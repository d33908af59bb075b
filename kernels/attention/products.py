"""The two products of decoding over some blocks of 16 positions: scores, and weighted values.

Heads that share a key go together, in groups whose sums fit the registers; from the second group on, keys and
values lie in the first-level cache.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterator

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.attention.components import Components
from intaglio.kernels.attention.heads import Heads
from intaglio.kernels.attention.operands import Arithmetic
from intaglio.kernels.attention.preparation import Preparation
from intaglio.kernels.attention.scores import first_visible, masked, out_of_sight
from intaglio.kernels.attention.softmax import OnlineSoftmax
from intaglio.kernels.tir import LANES, Expression, tirx


class QueryState:
    """What one query head carries from block to block."""

    def __init__(self, heads: Heads, positions: int, arithmetic: Arithmetic) -> None:
        self.query, self.output = Components(heads, heads.key_words * heads.unit), Components(heads)
        self.softmax = OnlineSoftmax(positions)
        unit = arithmetic.unit
        # What is multiplied: the query and the weights themselves, or pairs of them.
        self.factors = self.query if unit == 1 else Components(heads, heads.head_dim // unit)
        self.weights = self.softmax.weights if unit == 1 else tir.local((positions // unit,))

    def keep_query(self, first: int, vector: Expression, _lanes: int) -> None:
        """The sink of `Preparation.query`."""
        self.query.store(first, vector)

    def clear(self) -> None:
        """Before the first block, and before the query is kept: words of keys may be padded."""
        self.softmax.clear()
        self.output.clear()
        if self.query.size > self.output.size:
            self.query.clear()

    def pack_query(self, arithmetic: Arithmetic) -> None:
        """Make the query's factors, once it is kept."""
        if self.factors is not self.query:
            for first in range(0, self.query.size, LANES):
                self.factors.store(first // arithmetic.unit, arithmetic.pack(self.query.load(first)))

    def pack_weights(self, arithmetic: Arithmetic) -> None:
        """Make the weights' factors, once they are scaled."""
        if self.weights is not self.softmax.weights:
            for start in self.softmax.starts:
                packed = arithmetic.pack(tir.load(self.softmax.weights, [start]))
                tir.store(self.weights, [start // arithmetic.unit], packed)


class Products:
    """What the products read besides the queries' states.

    Args:
        preparation: views of the cache.
        position: of the token.
        sums: accumulators of 16 lanes at a time.
        arithmetic: as `stored_arithmetic` chooses it.
    """

    def __init__(
        self, preparation: Preparation, position: Expression, sums: int, arithmetic: Arithmetic
    ) -> None:
        self.heads, self.storage, self.arithmetic = preparation.heads, preparation.storage, arithmetic
        self.position, self.sums = position, sums
        self.first_position = tir.bind(first_visible(self.heads, position))

    def scores(
        self, state: list[QueryState], kv_head: Expression, first: Expression, blocks: Expression
    ) -> None:
        """Scores of `blocks` blocks from block `first` on, masked, into the weights of each head."""
        for group in _groups(state, self.sums):
            self._scores(group, kv_head, first, blocks)

    def _scores(
        self, group: list[QueryState], kv_head: Expression, first: Expression, blocks: Expression
    ) -> None:
        for state in group:
            state.softmax.hide()
        with T.serial(blocks) as step:
            block = tir.bind(first + step)
            position = tir.bind(block * tir.int32(LANES))
            scales = self.storage.key_scales(kv_head, position)
            for state, score in zip(group, self._products(group, kv_head, block), strict=True):
                score = score if scales is None else score * scales
                score = masked(self.heads, score, position, self.position)
                tir.store(state.softmax.weights, [step * tir.int32(LANES)], score)

    def _products(self, group: list[QueryState], kv_head: Expression, block: Expression) -> list[Expression]:
        """Products of each query with a block's 16 keys."""
        unit, words = self.heads.unit // self.arithmetic.unit, self.arithmetic.unit
        unroll = max(unit, 4 if self.heads.head_dim % (4 * words) == 0 else 2)
        # Several chains hide the latency of the multiply-add.
        chains = min(unroll, 4 if len(group) == 1 else 2 if 2 * len(group) <= self.sums else 1)
        sums = [[tir.local((LANES,)) for _ in range(chains)] for _ in group]
        for one in itertools.chain.from_iterable(sums):
            tir.store(one, [0], tir.zeros())
        for part, length in group[0].factors.lengths:
            with T.serial(length // unroll) as outer:
                for inner in range(0, unroll, unit):
                    at = tir.bind(outer * tir.int32(unroll) + tir.int32(inner))
                    word = tirx.floordiv(at + tir.int32(part * group[0].factors.part), tir.int32(unit))
                    for offset, key in enumerate(self._keys(kv_head, block, tir.bind(word))):
                        for state, row in zip(group, sums, strict=True):
                            one = row[(inner + offset) % chains]
                            factor = state.factors.parts[part][at + tir.int32(offset)]
                            tir.store(one, [0], self.arithmetic.add(tir.load(one, [0]), key, factor))
        return [functools.reduce(operator.add, (tir.load(one, [0]) for one in row)) for row in sums]

    def _keys(self, kv_head: Expression, block: Expression, word: Expression) -> list[Expression]:
        """A word of keys as it is multiplied."""
        if self.arithmetic.unit == 1:
            return self.storage.key_vectors(kv_head, block, word)
        return [tir.reinterpret(tir.bind(self.storage.key_word(kv_head, block, word)), "float32x16")]

    def _values(self, kv_head: Expression, row: Expression, first: int, lanes: int) -> list[Expression]:
        """Words of values, as keys."""
        if self.arithmetic.unit == 1:
            return self.storage.value_vectors(kv_head, row, first, lanes)
        return [tir.reinterpret(tir.bind(self.storage.value_word(kv_head, row, first, lanes)), "float32x16")]

    def accumulate(
        self, state: list[QueryState], kv_head: Expression, first: Expression, blocks: Expression
    ) -> None:
        """Shrink the outputs; add weighted values from position `first` on, reading no word out of sight."""
        unit = tir.int32(self.heads.unit)
        end = tirx.Min(blocks * tir.int32(LANES), self.position + tir.int32(1) - first)
        hidden = out_of_sight(self.heads, self.first_position, first)
        skipped = tir.bind(tirx.floordiv(hidden, unit))
        count = tir.bind(tirx.floordiv(end + unit - tir.int32(1), unit) - skipped)
        for one in state:
            one.softmax.scale(lambda start: self.storage.value_scales(kv_head, first + tir.int32(start)))
            one.pack_weights(self.arithmetic)
        vectors = self.heads.vectors
        whole = len(state) * vectors <= self.sums
        rows = len(state) if whole or vectors == 1 else max(1, self.sums // 2)
        for group in _groups(state, rows):
            step = max(1, self.sums // len(group))
            for vector in range(0, vectors, step):
                some = range(vector, min(vector + step, vectors))
                self._slice(group, some, kv_head, first, skipped, count)

    def _slice(
        self,
        group: list[QueryState],
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
        unit, words = tir.int32(self.heads.unit), tir.int32(self.heads.unit // self.arithmetic.unit)
        with T.serial(count) as step:
            word = tir.bind(skipped + step)
            row_of_words = tir.bind(tirx.floordiv(first, unit) + word)
            for slot, vector in enumerate(vectors):
                values = self._values(kv_head, row_of_words, vector * lanes, lanes)
                for offset, value in enumerate(values):
                    for state, row in zip(group, sums, strict=True):
                        factor = state.weights[word * words + tir.int32(offset)]
                        running = tir.load(row[slot], [0], lanes)
                        tir.store(row[slot], [0], self.arithmetic.add(running, value, factor, lanes))
        for state, row in zip(group, sums, strict=True):
            for vector, one in zip(vectors, row, strict=True):
                state.output.store(vector * lanes, tir.load(one, [0], lanes))


def _groups(state: list[QueryState], size: int) -> Iterator[list[QueryState]]:
    """Consecutive heads, at most `size` at a time, in groups of nearly equal size."""
    groups = -(-len(state) // size)
    for index in range(groups):
        yield state[len(state) * index // groups : len(state) * (index + 1) // groups]
