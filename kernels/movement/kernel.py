"""Movements → code.

1. rows of which source and result are contiguous, or the source is one element, move by vectors;
2. where the source is contiguous along another axis than the result, squares of 16 × 16 are transposed in
   registers (`transposition.py`);
3. everything else moves element by element.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.movement import transposition
from intaglio.kernels.movement.loops import inside, places, unflattened, views
from intaglio.kernels.movement.movement import BYTES, MovedAxis, Movement
from intaglio.kernels.tir import Expression, KernelFrame, tirx

VECTOR_BYTES = 64
UNITS = 16  # at least, so that workers have equal shares
CHUNK = 2048  # elements of a long row that are one unit


def emit_movement(movement: Movement, frame: KernelFrame) -> None:
    """Write the code of a canonical movement."""
    if transposition.fits(movement):
        transposition.emit_transposition(movement, frame)
    else:
        _Writer(movement, frame).emit()


class _Writer:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, movement: Movement, frame: KernelFrame) -> None:
        self.movement, self.frame = movement, frame
        self.lanes = VECTOR_BYTES // BYTES[movement.element]
        self.source, self.result = views(movement, frame)
        self.row = movement.axes[-1]

    def emit(self) -> None:
        """All rows: the outer axes shared among the workers, the inner ones as loops."""
        axes = self.movement.axes[:-1]
        shared = next(
            (i for i in range(len(axes) + 1) if math.prod(axis.extent for axis in axes[:i]) >= UNITS),
            len(axes),
        )
        rows = math.prod(axis.extent for axis in axes[:shared])
        chunks = self.chunks(rows)

        def unit(index: Expression) -> None:
            chunk = tir.hold(tirx.floormod(index, tir.int32(chunks)))
            indices = unflattened(tir.hold(tirx.floordiv(index, tir.int32(chunks))), axes[:shared])
            self.inner(axes, indices, chunk, chunks)

        self.frame.each_own(rows * chunks, unit)

    def chunks(self, rows: int) -> int:
        """Parts of a row that are units of their own; rows with filled ends stay whole."""
        if rows >= UNITS or not self.row.whole:
            return 1
        return max(1, self.row.extent // CHUNK)

    def inner(
        self, axes: Sequence[MovedAxis], indices: list[Expression], chunk: Expression, chunks: int
    ) -> None:
        """The loops over the axes that are not shared."""
        if len(indices) < len(axes):
            with T.serial(axes[len(indices)].extent) as index:
                self.inner(axes, [*indices, index], chunk, chunks)
            return
        source, result = places(self.movement, axes, indices)
        size = -(-self.row.extent // chunks)
        first = tir.hold(tirx.Min(chunk * tir.int32(size), tir.int32(self.row.extent - size)))
        to = tir.hold(result + first * tir.int32(self.row.result))
        condition = inside(axes, indices)
        if self.movement.filled:
            self.fill(to, self.row.extent)
        elif condition is None:
            self.move(tir.hold(source + first * tir.int32(self.row.source)), to, size)
        else:
            with T.If(condition):
                with T.Then():
                    self.move(tir.hold(source + first * tir.int32(self.row.source)), to, size)
                with T.Else():
                    self.fill(to, self.row.extent)

    def move(self, source: Expression, to: Expression, size: int) -> None:
        """A row, or part of one."""
        row = self.row
        self.fill(to, row.before)
        length = size - row.before - row.after
        start = tir.hold(to + tir.int32(row.before * row.result))
        self.fill(tir.hold(start + tir.int32(length * row.result)), row.after)
        if row.source == 0:
            value = tir.bind(self.source[source])
            self.spread(start, value, length)
        elif row.source == row.result == 1:
            self.vectors(
                length,
                lambda at: tir.store(
                    self.result, [start + at], tir.load(self.source, [source + at], self.lanes)
                ),
                lambda at: tir.store(self.result, [start + at], self.source[source + at]),
            )
        else:
            with T.serial(length) as at:
                value = self.source[source + at * tir.int32(row.source)]
                tir.store(self.result, [start + at * tir.int32(row.result)], value)

    def fill(self, to: Expression, size: int) -> None:
        """`size` elements from `to` on."""
        if size:
            self.spread(to, tir.constant(_number(self.movement), self.movement.element), size)

    def spread(self, to: Expression, value: Expression, size: int) -> None:
        """One value in `size` elements from `to` on."""
        if self.row.result != 1:
            with T.serial(size) as at:
                tir.store(self.result, [to + at * tir.int32(self.row.result)], value)
            return
        self.vectors(
            size,
            lambda at: tir.store(self.result, [to + at], tir.spread(value, self.lanes)),
            lambda at: tir.store(self.result, [to + at], value),
        )

    def vectors(
        self, size: int, whole: Callable[[Expression], None], single: Callable[[Expression], None]
    ) -> None:
        """`size` elements by vectors, the last of which overlaps with the one before it; few one by one."""
        if size < self.lanes:
            with T.serial(size) as at:
                single(at)
            return
        with T.serial(size // self.lanes) as vector:
            whole(tir.bind(vector * tir.int32(self.lanes)))
        if size % self.lanes:
            whole(tir.int32(size - self.lanes))


def _number(movement: Movement) -> float | int:
    return movement.fill if movement.element == "float32" else int(movement.fill)
