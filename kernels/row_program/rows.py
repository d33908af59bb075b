"""The rows that a row program reads and writes, vector by vector, partial ones included."""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.row_program.program import RowProgram
from intaglio.kernels.tir import LANES, Expression, KernelFrame, tirx


class Rows:
    """Views of one call's buffers: `token` of the inputs, row `to` of the result, this worker's scratch."""

    def __init__(self, program: RowProgram, frame: KernelFrame, token: Expression, to: Expression) -> None:
        extents = {"all": frame.count, "own": frame.workers, "shared": 1, "last": frame.workers}
        places = {"all": token, "own": frame.worker, "shared": tir.int32(0)}
        self.program, self.worker, self.to = program, frame.worker, to
        self.full, self.tail = divmod(program.columns, LANES)
        self.places = [places[one.rows] for one in program.inputs]
        self.inputs = [
            frame.buffer(f"input{i}", (extents[one.rows], one.stride), "float32")
            for i, one in enumerate(program.inputs)
        ]
        self.vectors = [
            frame.buffer(f"vector{i}", (program.padded,), "float32") for i in range(program.vectors)
        ]
        shape = (frame.workers, program.padded)
        self.scratch = [frame.buffer(f"scratch{i}", shape, "float32") for i in range(len(program.norms))]
        self.result = frame.buffer("result", (extents[program.rows], program.stride), "float32")
        self.scalars = {
            i: self.column(i) for i, one in enumerate(program.inputs) if one.broadcast
        }  # before anything can be written in their place

    def column(self, index: int) -> Expression:
        """A broadcast input, in every lane."""
        value = self.inputs[index][self.places[index], self.program.inputs[index].offset]
        return tir.bind(tir.spread(tir.bind(value)))

    def read(self, index: int, at: Expression, *, partial: bool) -> Expression:
        """Input `index` from column `at` on; beyond the end of a partial vector anything."""
        if index in self.scalars:
            return self.scalars[index]
        one, buffer, row = self.program.inputs[index], self.inputs[index], self.places[index]
        start = at + tir.int32(one.offset)
        if not partial or one.offset + self.program.padded <= one.stride:
            return tir.bind(tir.load(buffer, [row, start]))
        rest = tir.local((LANES,))
        tir.store(rest, [0], tir.zeros())
        with T.serial(self.tail) as column:
            tir.store(rest, [column], buffer[row, start + column])
        return tir.bind(tir.load(rest, [0]))

    def write(self, at: Expression, value: Expression, *, partial: bool) -> None:
        """The result from column `at` on; where a partial vector fits, its padding becomes zero."""
        start = at + tir.int32(self.program.offset)
        if not partial:
            tir.store(self.result, [self.to, start], value)
        elif self.program.offset == 0 and self.program.stride >= self.program.padded:
            tir.store(self.result, [self.to, start], self.masked(value))
        else:
            rest = tir.local((LANES,))
            tir.store(rest, [0], value)
            with T.serial(self.tail) as column:
                tir.store(self.result, [self.to, start + column], rest[column])

    def masked(self, value: Expression) -> Expression:
        """A partial vector with zeros beyond the row's end, whatever was computed there."""
        inside = tirx.Ramp(tir.int32(0), tir.int32(1), LANES) < tir.spread(tir.int32(self.tail))
        return tir.hold(tirx.Select(inside, value, tir.zeros()))

    def vector(self, index: int, at: Expression) -> Expression:
        """Weight vector `index` from column `at` on."""
        return tir.bind(tir.load(self.vectors[index], [at]))

    def keep(self, place: int, at: Expression, value: Expression) -> None:
        """Put `value` into scratch row `place`."""
        tir.store(self.scratch[place], [self.worker, at], value)

    def kept(self, place: int, at: Expression) -> Expression:
        """What scratch row `place` holds."""
        return tir.bind(tir.load(self.scratch[place], [self.worker, at]))
