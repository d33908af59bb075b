"""Sums over a row, in four accumulators that hide the latency of additions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.tir import LANES, Expression

ACCUMULATORS = 4
Term = Callable[[Expression, bool], Expression]  # (first column, whether the vector is partial) → 16 values


@dataclass(frozen=True)
class Statistics:
    """What normalises a row: `(x - mean) · inverse`."""

    inverse: Expression  # float32x16, the same in every lane
    mean: Expression | None  # likewise; None for RMSNorm


@dataclass(frozen=True)
class RowSum:
    """The sum of `columns` values, or of their squares; partial vectors must hold zeros beyond the end."""

    columns: int
    squares: bool

    def mean(self, term: Term) -> Expression:
        """The mean of `term` (squared) over the row; `term` is evaluated once for every vector."""
        totals = tir.local((ACCUMULATORS, LANES))
        for i in range(ACCUMULATORS):
            tir.store(totals, [i, 0], tir.zeros())
        full, tail = divmod(self.columns, LANES)
        groups, rest = divmod(full, ACCUMULATORS)
        if groups:
            with T.serial(groups) as group:
                for i in range(ACCUMULATORS):
                    first = group * tir.int32(ACCUMULATORS * LANES) + tir.int32(i * LANES)
                    self._add(totals, i, term(tir.bind(first), False))
        for i in range(rest):
            self._add(totals, i, term(tir.int32((groups * ACCUMULATORS + i) * LANES), False))
        if tail:
            self._add(totals, rest, term(tir.int32(full * LANES), True))
        a, b, c, d = (tir.load(totals, [i, 0]) for i in range(ACCUMULATORS))
        return tir.hold(tir.sum_tree(tir.hold((a + b) + (c + d))) * tir.float32(1.0 / self.columns))

    def _add(self, totals: Expression, into: int, value: Expression) -> None:
        total = tir.load(totals, [into, 0])
        added = tir.fused_multiply_add(value, value, total) if self.squares else total + value
        tir.store(totals, [into, 0], added)


def inverse_root(mean_square: Expression, epsilon: float) -> Expression:
    """1 / √(mean_square + epsilon), in every lane."""
    root = tir.square_root(mean_square + tir.float32(epsilon))
    return tir.hold(tir.spread(tir.hold(tir.float32(1.0) / root)))
