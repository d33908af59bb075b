"""Row programs → code: element-wise steps fused into one expression per vector, norms by passes over a row.

1. what a vector needs is computed once, in registers, from the inputs to the result;
2. a norm first makes a pass (LayerNorm two) for its statistics; what it had to compute for them it leaves in
   its scratch row for the steps after it;
3. the last, partial vector of a row is read and written whole where the stride has room for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.row_program.operations import apply
from intaglio.kernels.row_program.program import RowProgram, Step
from intaglio.kernels.row_program.rows import Rows
from intaglio.kernels.row_program.statistics import RowSum, Statistics, inverse_root
from intaglio.kernels.tir import LANES, Expression, KernelFrame


def emit_rows(program: RowProgram, frame: KernelFrame) -> None:
    """Write the code of `program` into the function being built."""
    if program.rows == "all":
        frame.each_own(frame.count, lambda row: _writer(program, frame, tir.bind(row), row).write())
    elif program.rows == "shared":
        _writer(program, frame, tir.int32(0), tir.int32(0)).write_share(frame)
    else:
        token = frame.count - tir.int32(1) if program.rows == "last" else tir.int32(0)
        _writer(program, frame, token, frame.worker).write()


def _writer(program: RowProgram, frame: KernelFrame, token: Expression, to: Expression) -> _Writer:
    return _Writer(program, Rows(program, frame, token, to))


@dataclass
class _Writer:
    """The code for one row."""

    program: RowProgram
    rows: Rows
    kept: dict[int, int] = field(default_factory=dict)  # step → the scratch row that holds it
    statistics: dict[int, Statistics] = field(default_factory=dict)  # of norms whose pass is done

    def write(self) -> None:
        """All columns."""
        needed = self.program.needed(self.program.last, frozenset())
        for place, norm in enumerate(self.program.norms):
            if norm in needed:
                self.pass_over(norm, place)
        if self.rows.full:
            with T.serial(self.rows.full) as vector:
                self.vector(vector)
        self.tail()

    def write_share(self, frame: KernelFrame) -> None:
        """This worker's share of the columns; the last one has the partial vector."""
        frame.each_own(self.rows.full, self.vector)
        with T.If(frame.worker.equal(frame.workers - tir.int32(1))), T.Then():
            self.tail()

    def vector(self, vector: Expression) -> None:
        """Sixteen columns of the result."""
        at = tir.bind(vector * tir.int32(LANES))
        self.rows.write(at, self.value(self.program.last, at, False), partial=False)

    def tail(self) -> None:
        """What is left of the columns."""
        if self.rows.tail:
            at = tir.int32(self.rows.full * LANES)
            self.rows.write(at, self.value(self.program.last, at, True), partial=True)

    def value(self, step: int, at: Expression, partial: bool) -> Expression:
        """Step `step` for the columns from `at` on; whatever it needs on the way is evaluated once."""
        values: dict[int, Expression] = {}
        for i in self.program.needed(step, frozenset(self.kept)):
            values[i] = self.one(i, values, at, partial)
        return values[step]

    def one(self, index: int, values: dict[int, Expression], at: Expression, partial: bool) -> Expression:
        """Step `index`, its arguments being in `values`."""
        step = self.program.steps[index]
        if index in self.kept:
            return self.rows.kept(self.kept[index], at)
        if step.op == "input":
            return self.rows.read(step.index, at, partial=partial)
        if step.op == "vector":
            return self.rows.vector(step.index, at)
        arguments = [values[i] for i in step.arguments]
        if index in self.statistics:
            return normalised(arguments, self.statistics[index])
        return apply(step, arguments)

    def pass_over(self, norm: int, place: int) -> None:
        """Find the statistics of step `norm`, leaving what it normalises in scratch row `place`."""
        step = self.program.steps[norm]
        source = step.arguments[0]
        keep = self.program.steps[source].op != "input" and source not in self.kept

        def term(at: Expression, partial: bool) -> Expression:
            value = self.value(source, at, partial)
            value = self.rows.masked(value) if partial else value
            if keep:
                self.rows.keep(place, at, value)
            return value

        first = RowSum(self.program.columns, squares=step.op == "rms_norm").mean(term)
        if keep:
            self.kept[source] = place
        self.statistics[norm] = self.finish(step, first)

    def finish(self, step: Step, first: Expression) -> Statistics:
        """Statistics from the mean square (RMSNorm), or from the mean and a second pass (LayerNorm)."""
        if step.op == "rms_norm":
            return Statistics(inverse_root(first, step.number), None)
        mean = tir.hold(tir.spread(first))

        def deviation(at: Expression, partial: bool) -> Expression:
            value = tir.hold(self.value(step.arguments[0], at, partial) - mean)
            return self.rows.masked(value) if partial else value

        variance = RowSum(self.program.columns, squares=True).mean(deviation)
        return Statistics(inverse_root(variance, step.number), mean)


def normalised(arguments: list[Expression], found: Statistics) -> Expression:
    """A norm whose statistics are known: `(x - mean) · inverse [· weight [+ bias]]`."""
    value, *scaling = arguments
    value = (value if found.mean is None else value - found.mean) * found.inverse
    if len(scaling) == 2:
        return tir.hold(tir.fused_multiply_add(value, *scaling))
    return tir.hold(value * scaling[0] if scaling else value)
