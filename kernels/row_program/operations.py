"""The element-wise operations of row programs, over vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from intaglio.kernels import elementary, tir
from intaglio.kernels.row_program.program import Step
from intaglio.kernels.tir import Expression, tirx


def apply(step: Step, arguments: list[Expression]) -> Expression:
    """The value of `step`, evaluated here, once."""
    if step.op == "number":
        return tir.spread(tir.float32(step.number))
    if step.op == "power_of_number":
        return elementary.power(arguments[0], step.number)
    return tir.hold(_operations()[step.op](*arguments))


def _operations() -> dict[str, Callable[..., Any]]:
    return {
        "add": lambda a, b: a + b,
        "subtract": lambda a, b: a - b,
        "multiply": lambda a, b: a * b,
        "divide": lambda a, b: a / b,
        "maximum": tirx.Max,
        "minimum": tirx.Min,
        "negate": lambda a: tir.spread(tir.float32(-0.0)) - a,
        "absolute": tir.absolute,
        "exp": elementary.full_exponential,
        "log": elementary.logarithm,
        "tanh": elementary.hyperbolic_tangent,
        "logistic": elementary.logistic_function,
        "erf": elementary.error_function,
        "sqrt": elementary.square_roots,
        "reciprocal": lambda a: tir.spread(tir.float32(1.0)) / a,
        "square": lambda a: a * a,
        "relu": elementary.relu,
        "gelu_erf": elementary.gelu_erf,
        "gelu_tanh": elementary.gelu_tanh,
        "silu": elementary.silu,
    }
