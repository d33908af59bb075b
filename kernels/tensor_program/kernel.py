"""Tensor programs → code: one expression per vector of 16 along the result's innermost axis.

1. axes are put into the order of the result's memory and merged where all tensors allow it;
2. workers share the outer axes, or parts of the innermost one where these are few;
3. what is left of the innermost axis after whole vectors is computed in a vector and stored one by one.
"""

from __future__ import annotations

import math

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.tensor_program import vectors
from intaglio.kernels.tensor_program.operand import merged
from intaglio.kernels.tensor_program.operations import apply
from intaglio.kernels.tensor_program.program import TensorProgram
from intaglio.kernels.tir import LANES, Expression, KernelFrame, tirx

UNITS = 16  # at least, so that workers have equal shares
CHUNK = 32  # vectors that are worth a unit of their own


def emit_tensors(program: TensorProgram, frame: KernelFrame) -> None:
    """Write the code of `program` into the function being built."""
    _Writer(program, frame).emit()


class _Writer:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, program: TensorProgram, frame: KernelFrame) -> None:
        operands = (*program.inputs, program.result)
        self.program, self.frame = program, frame
        extents, strides = merged(program.extents, operands, program.zeros > 0)
        self.extents, self.strides = extents or [1], strides or [[1] * len(operands)]
        self.buffers = [
            frame.buffer(name, (one.extent(program.extents),), one.element)
            for name, one in zip(program.pointers, operands, strict=True)
        ]
        self.whole, self.rest = divmod(self.extents[-1], LANES)

    def emit(self) -> None:
        """All rows, in units."""
        outer = self.extents[:-1]
        shared = next((i for i in range(len(outer) + 1) if math.prod(outer[:i]) >= UNITS), len(outer))
        rows = math.prod(outer[:shared])
        chunks = max(1, self.whole // CHUNK) if rows < UNITS else 1

        def unit(index: Expression) -> None:
            chunk = tir.hold(tirx.floormod(index, tir.int32(chunks)))
            row = tir.hold(tirx.floordiv(index, tir.int32(chunks)))
            places = [tir.int32(one.offset) for one in (*self.program.inputs, self.program.result)]
            for axis in reversed(range(shared)):
                at = tir.hold(tirx.floormod(row, tir.int32(outer[axis])))
                row = tir.hold(tirx.floordiv(row, tir.int32(outer[axis])))
                places = self.moved(places, axis, at)
            self.inner(shared, [tir.hold(one) for one in places], chunk, chunks)

        self.frame.each_own(rows * chunks, unit)

    def moved(self, places: list[Expression], axis: int, index: Expression) -> list[Expression]:
        """Where all operands are, `index` further along `axis`."""
        strides = self.strides[axis]
        return [
            place + index * tir.int32(stride) if stride else place
            for place, stride in zip(places, strides, strict=True)
        ]

    def inner(self, axis: int, places: list[Expression], chunk: Expression, chunks: int) -> None:
        """The loops over the axes that are not shared."""
        if axis == len(self.extents) - 1:
            self.row(places, chunk, chunks)
            return
        with T.serial(self.extents[axis]) as index:
            self.inner(axis + 1, [tir.hold(one) for one in self.moved(places, axis, index)], chunk, chunks)

    def row(self, places: list[Expression], chunk: Expression, chunks: int) -> None:
        """The innermost axis, or a part of it; the last part has the partial vector."""
        if self.whole:
            size = -(-self.whole // chunks)
            first = tir.hold(tirx.Min(chunk * tir.int32(size), tir.int32(self.whole)))
            with T.serial(tirx.Min(tir.int32(size), tir.int32(self.whole) - first)) as vector:
                self.vector(places, tir.hold((first + vector) * tir.int32(LANES)), LANES)
        if not self.rest:
            return
        if chunks == 1:
            self.vector(places, tir.int32(self.whole * LANES), self.rest)
            return
        with T.If(chunk.equal(tir.int32(chunks - 1))), T.Then():
            self.vector(places, tir.int32(self.whole * LANES), self.rest)

    def vector(self, places: list[Expression], at: Expression, count: int) -> None:
        """Sixteen results, or the last ones."""
        strides = self.strides[-1]
        *sources, target = self.moved(places, len(self.extents) - 1, at)
        values: list[Expression] = []
        for step in self.program.steps:
            if step.op == "input":
                i = step.index
                values.append(vectors.read(self.buffers[i], sources[i], strides[i], count))
            else:
                values.append(apply(step, [values[i] for i in step.arguments]))
        value = values[-1]
        if self.program.zeros:
            lanes = tirx.Ramp(at, tir.int32(1), LANES)
            inside = lanes < tir.spread(tir.int32(self.extents[-1] - self.program.zeros))
            value = tir.hold(tirx.Select(inside, value, tir.zeros()))
        vectors.write(self.buffers[-1], target, strides[-1], value, count)
