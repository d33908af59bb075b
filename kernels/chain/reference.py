"""Chains, naively, in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from intaglio.kernels.chain.steps import ChainStep
from intaglio.kernels.row_program.reference import OPERATIONS

Array = NDArray[np.float64]


def chain(steps: Sequence[ChainStep], value: Array, operands: Sequence[Array]) -> Array:
    """`value` `[…, channels]` after all steps; operands have its shape, or one that broadcasts to it."""
    rest = list(operands)
    for step in steps:
        value = _step(step, value, [rest.pop(0)] if step.has_operand else [])
    return value


def _step(step: ChainStep, value: Array, operand: list[Array]) -> Array:
    a, b = step.a, step.b
    if step.op == "affine":
        return a * value + b
    if step.op == "clip":
        return np.clip(value, a, b)
    if step.op == "hard_sigmoid":
        return np.clip(a * value + b, 0.0, 1.0)
    if step.op == "hard_swish":
        return value * np.clip(value / 6.0 + 0.5, 0.0, 1.0)
    if step.op == "leaky_relu":
        return np.where(value < 0, a * value, value)
    if step.op == "power":
        return np.asarray(np.power(value, a) if not math.isnan(a) else value, np.float64)
    return np.asarray(OPERATIONS[step.op](value, *operand), np.float64)
