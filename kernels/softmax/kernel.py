"""Softmax → code: the maximum, then powers and their sum, then the quotients.

1. along rows of neighbours, vectors are reduced at the end; what lies beyond a row counts as -∞;
2. along another axis, sixteen columns at a time; the last ones are copied to and from a whole vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import elementary, tir
from intaglio.kernels.reduction.operations import across, joined
from intaglio.kernels.softmax.softmax import Softmax
from intaglio.kernels.tensor_program import vectors
from intaglio.kernels.tir import LANES, Expression, KernelFrame, tirx

LOWEST = -3.4028234663852886e38  # of a maximum, so that no difference is NaN
Body = Callable[[Expression, int], None]  # (where, how many lanes count)
Term = Callable[[Expression, int], Expression]


@dataclass(frozen=True)
class _Walk:
    """How to visit all vectors of a row, and how 16 partial results become what holds for every lane."""

    each: Callable[[Body], None]
    gathered: Callable[[str, Expression], Expression]


def emit_softmax(kernel: Softmax, frame: KernelFrame) -> None:
    """Write the code of `kernel` into the function being built."""
    writer = _Writer(kernel, frame)
    if kernel.inner == 1:
        frame.each_own(kernel.outer, writer.row)
    else:
        frame.each_own(kernel.outer * -(-kernel.inner // LANES), writer.columns)


class _Writer:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, kernel: Softmax, frame: KernelFrame) -> None:
        self.kernel = kernel
        self.source = frame.buffer("source", (kernel.outer * kernel.row,), "float32")
        self.result = frame.buffer("result", (kernel.outer * kernel.row,), "float32")

    def row(self, row: Expression) -> None:
        """One row of neighbours."""
        kernel = self.kernel
        first = tir.hold(row * tir.int32(kernel.row))
        whole, rest = divmod(kernel.extent, LANES)

        def each(body: Body) -> None:
            if whole:
                with T.serial(whole) as vector:
                    body(tir.hold(first + vector * tir.int32(LANES)), LANES)
            if rest:
                body(tir.hold(first + tir.int32(whole * LANES)), rest)

        self.passes(_Walk(each, lambda op, value: tir.hold(tir.spread(across(op, value)))))
        with T.serial(kernel.zeros) as after:
            tir.store(self.result, [first + tir.int32(kernel.extent) + after], tir.float32(0.0))

    def columns(self, unit: Expression) -> None:
        """Sixteen columns, or the last ones."""
        kernel = self.kernel
        parts, rest = -(-kernel.inner // LANES), kernel.inner % LANES
        part = tir.hold(tirx.floormod(unit, tir.int32(parts)))
        first = tirx.floordiv(unit, tir.int32(parts)) * tir.int32(kernel.row) + part * tir.int32(LANES)
        first = tir.hold(first)

        def some(count: int) -> None:
            def each(body: Body) -> None:
                with T.serial(kernel.extent) as index:
                    body(tir.hold(first + index * tir.int32(kernel.inner)), count)

            self.passes(_Walk(each, lambda _, value: value))

        if not rest:
            some(LANES)
            return
        with T.If(part < tir.int32(parts - 1)):
            with T.Then():
                some(LANES)
            with T.Else():
                some(rest)

    def passes(self, walk: _Walk) -> None:
        """The three passes."""
        highest = walk.gathered("max", self.joined(walk, LOWEST, "max", self.values))
        total = walk.gathered("sum", self.joined(walk, 0.0, "sum", self.powers(highest)))
        if self.kernel.logarithm:
            less = elementary.logarithm(total)  # apart, so that the logarithm of nearly 1 is exact
            walk.each(lambda at, count: self.write(at, count, self.read(at, count, 0.0) - highest - less))
            return
        inverse = tir.hold(tir.spread(tir.float32(1.0)) / total)
        walk.each(lambda at, count: self.write(at, count, vectors.read(self.result, at, 1, count) * inverse))

    def joined(self, walk: _Walk, start: float, op: str, term: Term) -> Expression:
        """What `term` gives for all vectors, as one of 16 partial results."""
        running = tir.local((LANES,))
        tir.store(running, [0], tir.spread(tir.float32(start)))
        walk.each(
            lambda at, count: tir.store(running, [0], joined(op, tir.load(running, [0]), term(at, count)))
        )
        return tir.bind(tir.load(running, [0]))

    def values(self, at: Expression, count: int) -> Expression:
        """For the maximum."""
        return self.read(at, count, LOWEST)

    def powers(self, highest: Expression) -> Term:
        """For the sum; they stay in the result, unless only their sum is wanted."""

        def power(at: Expression, count: int) -> Expression:
            found = elementary.full_exponential(tir.hold(self.read(at, count, -math.inf) - highest))
            if not self.kernel.logarithm:
                self.write(at, count, found)
            return found

        return power

    def write(self, at: Expression, count: int, value: Expression) -> None:
        """The first `count` lanes into the result."""
        vectors.write(self.result, at, 1, tir.hold(value), count)

    def read(self, at: Expression, count: int, beyond: float) -> Expression:
        """Elements of the source; lanes after `count` ones are `beyond`."""
        value = vectors.read(self.source, at, 1, count)
        if count == LANES:
            return value
        inside = tirx.Ramp(tir.int32(0), tir.int32(1), LANES) < tir.spread(tir.int32(count))
        return tir.hold(tirx.Select(inside, value, tir.spread(tir.float32(beyond))))
