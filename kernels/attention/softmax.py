"""The online softmax of one query over blocks of positions (Milakov and Gimelshein 2018)."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable

from intaglio.kernels import tir
from intaglio.kernels.attention.scores import LOWEST
from intaglio.kernels.tir import LANES, Expression, tirx


class OnlineSoftmax:
    """What a query carries from block to block, in registers or on the stack."""

    def __init__(self, positions: int, lanes: int = LANES) -> None:
        self.starts = range(0, positions, LANES)  # of a block's vectors
        self.weights = tir.local((positions,))  # before `update`: the block's scores
        self.lanes = lanes
        self.total = tir.local((lanes,))  # of weights; lane by lane is faster where registers abound
        self.largest = tir.local((1,))  # score
        self.shrink = tir.local((1,))  # factor of the output so far

    def clear(self) -> None:
        """Before the first block."""
        tir.store(self.largest, [0], tir.float32(LOWEST))
        tir.store(self.total, [0], tir.zeros(self.lanes))

    def hide(self) -> None:
        """Put scores in place for positions that the block lacks."""
        for start in self.starts:
            tir.store(self.weights, [start], tir.spread(tir.float32(LOWEST)))

    def update(self) -> None:
        """Make a block's scores its weights, and say by how much the output before it shrinks."""
        scores = [tir.load(self.weights, [start]) for start in self.starts]
        peak = tir.max_lanes(functools.reduce(tirx.Max, scores))
        peak = tir.bind(tirx.Max(self.largest[0], peak))
        shrink = tir.bind(tir.exponential(self.largest[0] - peak, 1))
        parts = [tir.exponential(score - tir.spread(peak)) for score in scores]
        for start, part in zip(self.starts, parts, strict=True):
            tir.store(self.weights, [start], part)
        total = functools.reduce(operator.add, parts)
        total = tir.sum_lanes(total) if self.lanes == 1 else total
        running = tir.load(self.total, [0], self.lanes)
        tir.store(self.total, [0], running * tir.spread(shrink, self.lanes) + total)
        tir.store(self.largest, [0], peak)
        tir.store(self.shrink, [0], shrink)

    def scale(self, scales: Callable[[int], Expression | None]) -> None:
        """Multiply weights, once they are summed, by `scales(start)` of 16 positions, if there are any."""
        for start in self.starts:
            if (factors := scales(start)) is not None:
                tir.store(self.weights, [start], scaled(tir.bind(tir.load(self.weights, [start])), factors))

    def sum(self) -> Expression:
        """The sum of all weights."""
        return self.total[0] if self.lanes == 1 else tir.sum_lanes(tir.load(self.total, [0]))


def scaled(weights: Expression, factors: Expression) -> Expression:
    """`weights · factors`; where nobody wrote, factors may be anything, and weights are below 1e-37."""
    return tirx.Select(weights > tir.spread(tir.float32(1e-37)), weights * factors, tir.zeros())
