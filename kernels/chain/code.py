"""Chains → code over 16-lane vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from intaglio.kernels import elementary, tir
from intaglio.kernels.chain.steps import ChainStep, folded
from intaglio.kernels.row_program.operations import apply
from intaglio.kernels.row_program.program import Step
from intaglio.kernels.tir import LANES, Expression, tirx

Read = Callable[[int, ChainStep], Expression]  # (number of the operand, its step) → 16 values
AS_IN_ROWS = ("add", "subtract", "multiply", "maximum", "minimum")


def through(chain: Sequence[ChainStep], value: Expression, read: Read) -> Expression:
    """`value` after all steps; evaluated here, once."""
    operand = 0
    for step in folded(tuple(chain)):
        arguments = [value]
        if step.has_operand:
            arguments.append(read(operand, step))
            operand += 1
        value = _applied(step, arguments)
    return value


def _applied(step: ChainStep, arguments: list[Expression]) -> Expression:
    value = arguments[0]
    if step.op == "affine":
        return tir.hold(_affine(value, step.a, step.b))
    if step.op == "clip":
        return tir.hold(_clipped(value, step.a, step.b))
    if step.op == "hard_sigmoid":
        return tir.hold(_clipped(_affine(value, step.a, step.b), 0.0, 1.0))
    if step.op == "hard_swish":
        return tir.hold(value * _clipped(_affine(value, 1.0 / 6.0, 0.5), 0.0, 1.0))
    if step.op == "leaky_relu":
        return tir.hold(tirx.Select(value < tir.zeros(), value * _all(step.a), value))
    if step.op == "power":
        return elementary.power(value, step.a)
    return apply(Step(step.op), arguments)


def _all(value: float) -> Expression:
    return tir.spread(tir.float32(value))


def _affine(value: Expression, factor: float, summand: float) -> Expression:
    return tir.fused_multiply_add(value, _all(factor), _all(summand))


def _clipped(value: Expression, low: float, high: float) -> Expression:
    # The argument comes second: that way NaN passes through.
    return tirx.Max(_all(low), tirx.Min(_all(high), value))


def within(value: Expression, first: Expression, channels: int) -> Expression:
    """`value`, whose lanes are channels from `first` on, with zeros beyond `channels`."""
    inside = tirx.Ramp(first, tir.int32(1), LANES) < tir.spread(tir.int32(channels))
    return tir.hold(tirx.Select(inside, value, tir.zeros()))
