"""The operations that tensor programs have beside those of row programs, over vectors of float32."""

from __future__ import annotations

from intaglio.kernels import tir
from intaglio.kernels.row_program.operations import apply as apply_of_rows
from intaglio.kernels.row_program.program import Step
from intaglio.kernels.tir import Expression, tirx


def apply(step: Step, arguments: list[Expression]) -> Expression:
    """The value of `step`, evaluated here, once."""
    zero, one = tir.zeros(), tir.spread(tir.float32(1.0))
    first = arguments[0] if arguments else zero
    if step.op == "where":
        return tir.hold(tirx.Select(first.equal(zero), arguments[2], arguments[1]))
    if step.op == "not":
        return _truth(first.equal(zero))
    if step.op == "equal":
        return _truth(first.equal(arguments[1]))
    if step.op == "less":
        return _truth(first < arguments[1])
    if step.op == "less_equal":
        return _truth(first <= arguments[1])
    if step.op == "sign":
        below = tirx.Select(first < zero, zero - one, first)  # zeros and NaN stay what they are
        return tir.hold(tirx.Select(first > zero, one, below))
    if step.op in ("floor", "ceil"):
        return tir.hold(tir.intrinsic(f"llvm.{step.op}", "float32x16", first))
    if step.op == "round":
        return tir.hold(tir.round_even(first))
    return apply_of_rows(step, arguments)


def _truth(condition: Expression) -> Expression:
    return tir.hold(tirx.Select(condition, tir.spread(tir.float32(1.0)), tir.zeros()))
