"""Row programs → code: element-wise steps fused into one expression per vector, norms by passes over a row.

1. what a vector needs is computed once, in registers, from the inputs to the result;
2. a norm first makes a pass (LayerNorm two) for its statistics, in four accumulators that hide the latency of
   additions; what it had to compute for them it leaves in its scratch row for the steps after it;
3. the last, partial vector of a row is read and written whole where the stride has room for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.row_program.operations import apply
from intaglio.kernels.row_program.program import RowProgram, Step
from intaglio.kernels.tir import LANES, Expression, KernelFrame, tirx

ACCUMULATORS = 4


def emit_rows(program: RowProgram, frame: KernelFrame) -> None:
    """Write the code of `program` into the function being built."""
    worker, zero = frame.worker, tir.int32(0)
    if program.rows == "all":
        frame.each_own(frame.count, lambda row: _Row(program, frame, tir.bind(row), row).write())
    elif program.rows == "shared":
        _Row(program, frame, zero, zero).write_share()
    else:
        token = frame.count - tir.int32(1) if program.rows == "last" else zero
        _Row(program, frame, token, worker).write()


@dataclass(frozen=True)
class _Statistics:
    """A norm's row of x, ready to be scaled: `(x - mean) · inverse`."""

    inverse: Expression  # float32x16, the same in every lane
    mean: Expression | None  # likewise; None for RMSNorm


@dataclass
class _Row:
    """The code for one row: `token` of the inputs into row `to` of the result."""

    program: RowProgram
    frame: KernelFrame
    token: Expression
    to: Expression
    scalars: dict[int, Expression] = field(default_factory=dict)  # of broadcast inputs, in every lane
    kept: dict[int, int] = field(default_factory=dict)  # step → the scratch row that holds it
    statistics: dict[int, _Statistics] = field(default_factory=dict)  # of norms passed

    def __post_init__(self) -> None:
        program, frame = self.program, self.frame
        extents = {"all": frame.count, "own": frame.workers, "shared": 1}
        places = {"all": self.token, "own": frame.worker, "shared": tir.int32(0)}
        self.rows = [places[one.rows] for one in program.inputs]
        self.inputs = [
            frame.buffer(f"input{i}", (extents[one.rows], one.stride), "float32")
            for i, one in enumerate(program.inputs)
        ]
        self.vectors = [
            frame.buffer(f"vector{i}", (program.padded,), "float32") for i in range(program.vectors)
        ]
        shape = (frame.workers, program.padded)
        self.scratch = [frame.buffer(f"scratch{i}", shape, "float32") for i in range(len(program.norms))]
        extent = {"all": frame.count, "shared": 1}.get(program.rows, frame.workers)
        self.result = frame.buffer("result", (extent, program.stride), "float32")
        self.full, self.tail = divmod(program.columns, LANES)

    def write(self) -> None:
        """All columns."""
        self.read_scalars()
        needed = self.program.needed(len(self.program.steps) - 1, frozenset())
        for place, norm in enumerate(self.program.norms):
            if norm in needed:
                self.pass_over(norm, place)
        if self.full:
            with T.serial(self.full) as vector:
                self.write_vector(vector * tir.int32(LANES))
        self.write_tail()

    def write_share(self) -> None:
        """This worker's share of the columns."""
        self.read_scalars()
        self.frame.each_own(self.full, lambda vector: self.write_vector(vector * tir.int32(LANES)))
        last = self.frame.worker.equal(self.frame.workers - tir.int32(1))
        with T.If(last), T.Then():
            self.write_tail()

    def read_scalars(self) -> None:
        """Broadcast columns, before anything can be written in their place."""
        for i, one in enumerate(self.program.inputs):
            if one.broadcast:
                value = self.inputs[i][self.rows[i], one.offset]
                self.scalars[i] = tir.bind(tir.spread(tir.bind(value)))

    def write_vector(self, at: Expression) -> None:
        """Sixteen columns of the result from column `at` on."""
        at = tir.bind(at)
        value = self.value(len(self.program.steps) - 1, at, partial=False)
        tir.store(self.result, [self.to, at + tir.int32(self.program.offset)], value)

    def write_tail(self) -> None:
        """The last, partial vector; the result's padding is zero."""
        if not self.tail:
            return
        first, offset = self.full * LANES, self.program.offset
        value = self.masked(self.value(len(self.program.steps) - 1, tir.int32(first), partial=True))
        if offset == 0 and self.program.stride >= self.program.padded:
            tir.store(self.result, [self.to, tir.int32(first)], value)
            return
        rest = tir.local((LANES,))
        tir.store(rest, [0], value)
        with T.serial(self.tail) as column:
            tir.store(self.result, [self.to, column + tir.int32(first + offset)], rest[column])

    def masked(self, value: Expression) -> Expression:
        """A partial vector with zeros beyond the row's end, whatever was computed there."""
        inside = tirx.Ramp(tir.int32(0), tir.int32(1), LANES) < tir.spread(tir.int32(self.tail))
        return tir.bind(tirx.Select(inside, value, tir.zeros()))

    def value(self, step: int, at: Expression, *, partial: bool) -> Expression:
        """Step `step` for the columns from `at` on, and whatever it needs on the way, each once."""
        values: dict[int, Expression] = {}
        for i in self.program.needed(step, frozenset(self.kept)):
            values[i] = self.one(i, values, at, partial=partial)
        return values[step]

    def one(self, index: int, values: dict[int, Expression], at: Expression, *, partial: bool) -> Expression:
        """Step `index`, its arguments being in `values`."""
        step = self.program.steps[index]
        if index in self.kept:
            return tir.bind(tir.load(self.scratch[self.kept[index]], [self.frame.worker, at]))
        if step.op == "input":
            return self.read(step.index, at, partial=partial)
        if step.op == "vector":
            return tir.bind(tir.load(self.vectors[step.index], [at]))
        if index in self.statistics:
            return self.normalised(step, self.statistics[index], values)
        return apply(step, [values[i] for i in step.arguments])

    def read(self, index: int, at: Expression, *, partial: bool) -> Expression:
        """Input `index`; beyond the end of a partial vector anything."""
        if index in self.scalars:
            return self.scalars[index]
        one, buffer, row = self.program.inputs[index], self.inputs[index], self.rows[index]
        start = at + tir.int32(one.offset)
        if not partial or one.offset + self.program.padded <= one.stride:
            return tir.bind(tir.load(buffer, [row, start]))
        rest = tir.local((LANES,))
        tir.store(rest, [0], tir.zeros())
        with T.serial(self.tail) as column:
            tir.store(rest, [column], buffer[row, start + column])
        return tir.bind(tir.load(rest, [0]))

    def normalised(self, step: Step, found: _Statistics, values: dict[int, Expression]) -> Expression:
        """A norm whose statistics are known: `(x - mean) · inverse [· weight [+ bias]]`."""
        value, *scaling = (values[i] for i in step.arguments)
        if found.mean is not None:
            value = value - found.mean
        value = value * found.inverse
        if len(scaling) == 2:
            return tir.bind(tir.fused_multiply_add(value, *scaling))
        return tir.bind(value * scaling[0]) if scaling else tir.bind(value)

    def pass_over(self, norm: int, place: int) -> None:
        """Find the statistics of step `norm`, leaving what it normalises in scratch row `place`."""
        step = self.program.steps[norm]
        source = step.arguments[0]
        keep = self.program.steps[source].op != "input" and source not in self.kept
        rms = step.op == "rms_norm"

        def first(at: Expression, partial: bool) -> tuple[Expression, Expression | None]:
            value = self.value(source, at, partial=partial)
            value = self.masked(value) if partial else value
            if keep:
                tir.store(self.scratch[place], [self.frame.worker, at], value)
            return value, value if rms else None

        total = self.sum(first)
        if keep:
            self.kept[source] = place
        mean = None if rms else tir.bind(tir.spread(total * tir.float32(1.0 / self.program.columns)))
        if mean is not None:
            total = self.sum(lambda at, partial: self.deviation(source, mean, at, partial))
        variance = total * tir.float32(1.0 / self.program.columns)
        inverse = tir.bind(tir.float32(1.0) / tir.square_root(variance + tir.float32(step.number)))
        self.statistics[norm] = _Statistics(tir.bind(tir.spread(inverse)), mean)

    def deviation(
        self, source: int, mean: Expression, at: Expression, partial: bool
    ) -> tuple[Expression, Expression]:
        """What is left of a vector after subtracting the mean, twice: as factors of its square."""
        value = tir.bind(self.value(source, at, partial=partial) - mean)
        value = self.masked(value) if partial else value
        return value, value

    def sum(self, terms: Callable[[Expression, bool], tuple[Expression, Expression | None]]) -> Expression:
        """The sum over a row of `terms(column, partial)`: of values, or of products of two."""
        totals = tir.local((ACCUMULATORS, LANES))
        for i in range(ACCUMULATORS):
            tir.store(totals, [i, 0], tir.zeros())

        def add(vector: Expression, into: int, partial: bool = False) -> None:
            value, factor = terms(tir.bind(vector * tir.int32(LANES)), partial)
            total = tir.load(totals, [into, 0])
            total = total + value if factor is None else tir.fused_multiply_add(value, factor, total)
            tir.store(totals, [into, 0], total)

        groups, rest = divmod(self.full, ACCUMULATORS)
        if groups:
            with T.serial(groups) as group:
                for i in range(ACCUMULATORS):
                    add(group * tir.int32(ACCUMULATORS) + tir.int32(i), i)
        for i in range(rest):
            add(tir.int32(groups * ACCUMULATORS + i), i)
        if self.tail:
            add(tir.int32(self.full), rest, partial=True)
        a, b, c, d = (tir.load(totals, [i, 0]) for i in range(ACCUMULATORS))
        return tir.bind(tir.sum_tree(tir.bind((a + b) + (c + d))))
