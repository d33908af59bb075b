"""Reductions → code.

1. kept neighbours: a vector of 16 results at once, over all reduced indices;
2. else one result at a time, over vectors along the reduced axis with the smallest stride, then over lanes;
3. either way, four accumulators hide the latency of additions along the innermost reduced axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.reduction.operations import across, finished, joined, start
from intaglio.kernels.reduction.reduction import Reduction
from intaglio.kernels.tensor_program import vectors
from intaglio.kernels.tensor_program.operand import Operand, merged
from intaglio.kernels.tir import LANES, Expression, KernelFrame, tirx

ACCUMULATORS = 4
Term = Callable[[Expression], Expression]  # where in the input → 16 values


def emit_reduction(kernel: Reduction, frame: KernelFrame) -> None:
    """Write the code of `kernel` into the function being built."""
    _Writer(kernel, frame).emit()


class _Writer:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, kernel: Reduction, frame: KernelFrame) -> None:
        self.kernel, self.frame = kernel, frame
        kept = [i for i in range(len(kernel.extents)) if i not in kernel.reduced]
        self.kept = _axes(kernel, kept)
        self.reduced = _axes(kernel, list(kernel.reduced))
        self.count = math.prod(kernel.extents[i] for i in kernel.reduced)
        self.input = frame.buffer("input", (kernel.input.extent(kernel.extents),), kernel.input.element)
        self.result = frame.buffer("result", (kernel.result.extent(kernel.extents),), "float32")
        last = self.kept[-1] if self.kept else (1, 0, 0)
        beside = self.reduced[-1][1] if self.reduced else 0
        self.wide = bool(self.kept) and last[0] >= LANES and last[1] == 1 and beside != 1

    def emit(self) -> None:
        """All results, in units."""
        axes = list(self.kept)
        vector = axes.pop() if self.wide else None
        parts = -(-vector[0] // LANES) if vector else 1

        def unit(index: Expression) -> None:
            part = tir.hold(tirx.floormod(index, tir.int32(parts)))
            row = tir.hold(tirx.floordiv(index, tir.int32(parts)))
            source, target = tir.int32(self.kernel.input.offset), tir.int32(self.kernel.result.offset)
            for extent, stride, to in reversed(axes):
                at = tir.hold(tirx.floormod(row, tir.int32(extent)))
                row = tir.hold(tirx.floordiv(row, tir.int32(extent)))
                source, target = source + at * tir.int32(stride), target + at * tir.int32(to)
            if vector is None:
                self.one(tir.hold(source), tir.hold(target))
                return
            # The last vector overlaps with the one before it.
            first = tir.hold(tirx.Min(part * tir.int32(LANES), tir.int32(vector[0] - LANES)))
            self.sixteen(source + first, target + first * tir.int32(vector[2]), vector[2])

        self.frame.each_own(math.prod(extent for extent, _, _ in axes) * parts, unit)

    def sixteen(self, source: Expression, target: Expression, stride: int) -> None:
        """Sixteen results from kept neighbours."""
        axes = [(extent, step) for extent, step, _ in self.reduced]
        total = self.total(tir.hold(source), axes, lambda at: vectors.read(self.input, at, 1))
        value = finished(self.kernel.op, total, self.count, LANES)
        vectors.write(self.result, tir.hold(target), stride, tir.hold(value))

    def one(self, source: Expression, target: Expression) -> None:
        """One result."""
        *outer, (extent, stride, _) = self.reduced or [(1, 1, 0)]
        whole, rest = divmod(extent, LANES)
        axes = [(size, step) for size, step, _ in outer]
        op, totals = self.kernel.op, []
        if whole:
            inner = [*axes, (whole, LANES * stride)]
            totals.append(self.total(source, inner, lambda at: vectors.read(self.input, at, stride)))
        if rest:
            tail = tir.hold(source + tir.int32(whole * LANES * stride))
            inside = tirx.Ramp(tir.int32(0), tir.int32(1), LANES) < tir.spread(tir.int32(rest))
            nothing = tir.spread(tir.float32(start(op)))

            def partial(at: Expression) -> Expression:
                return tir.hold(tirx.Select(inside, vectors.read(self.input, at, stride, rest), nothing))

            totals.append(self.total(tail, axes, partial))
        total = totals[0] if len(totals) == 1 else tir.hold(joined(op, *totals))
        tir.store(self.result, [target], finished(op, across(op, total), self.count, 1))

    def total(self, source: Expression, axes: list[tuple[int, int]], term: Term) -> Expression:
        """What `term` gives for all indices of `axes` (extent, stride), as one vector."""
        op = self.kernel.op
        totals = tir.local((ACCUMULATORS, LANES))
        for i in range(ACCUMULATORS):
            tir.store(totals, [i, 0], tir.spread(tir.float32(start(op))))

        def add(into: int, at: Expression) -> None:
            value = term(at)
            value = value * value if op.endswith("squares") else value
            tir.store(totals, [into, 0], joined(op, tir.load(totals, [into, 0]), value))

        _nest(source, axes, add)
        a, b, c, d = (tir.bind(tir.load(totals, [i, 0])) for i in range(ACCUMULATORS))
        return tir.hold(joined(op, joined(op, a, b), joined(op, c, d)))


def _axes(kernel: Reduction, axes: list[int]) -> list[tuple[int, int, int]]:
    """Extent, stride in the input, stride in the result of some axes, the input's smallest stride last."""
    sides = [
        Operand(tuple(one.strides[i] for i in axes), one.element) for one in (kernel.result, kernel.input)
    ]
    extents, strides = merged([kernel.extents[i] for i in axes], sides)
    return [(extent, source, to) for extent, (to, source) in zip(extents, strides, strict=True)]


def _nest(at: Expression, axes: list[tuple[int, int]], add: Callable[[int, Expression], None]) -> None:
    """Loops over `axes`, the innermost one in steps of four."""
    if not axes:
        add(0, at)
        return
    (extent, stride), *rest = axes
    if rest:
        with T.serial(extent) as index:
            _nest(tir.hold(at + index * tir.int32(stride)), rest, add)
        return
    groups = extent // ACCUMULATORS
    if groups:
        with T.serial(groups) as group:
            first = tir.hold(at + group * tir.int32(ACCUMULATORS * stride))
            for i in range(ACCUMULATORS):
                add(i, first + tir.int32(i * stride))
    for i in range(groups * ACCUMULATORS, extent):
        add(i % ACCUMULATORS, at + tir.int32(i * stride))
