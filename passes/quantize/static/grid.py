"""The grid of a rounded value, chosen so that what surrounds it costs nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from intaglio.passes.quantize.static.value_range import STEPS, ValueRange
from intaglio.passes.rewriting import is_op, made_by, scalar

FINE_ENOUGH = 4  # steps of an offset from which on it may stretch the grid to fit
KNEE = 3.0  # HardSwish is 0 below -KNEE, the identity above KNEE


@dataclass(frozen=True)
class Grid:
    """`value` is `(code - zero_point) · scale`; the codes come from rounding `base` on a grid of its own.

    `base` is `value` itself, unless `value = base · factor + offset`: then its grid is such that the codes
    are the same.
    """

    base: ir.Value
    base_scale: np.float32
    base_zero_point: np.uint8
    scale: np.float32
    zero_point: np.uint8


def grid_of(value: ir.Value, covered: ValueRange) -> Grid:
    """The grid for `value`, whose numbers lie in `covered`."""
    if only_hard_swish_reads(value):
        return _grid_at_knee(value, covered)
    base, factor, offset = _affine(value)
    scale, zero = float(covered.scale), int(covered.zero_point)
    scale = _fitted(scale, offset)
    zero = min(STEPS, max(0, round(-min(covered.low, 0.0) / scale)))
    moved = min(STEPS, max(0, zero + round(offset / scale)))
    return Grid(base, np.float32(scale / factor), np.uint8(moved), np.float32(scale), np.uint8(zero))


def only_hard_swish_reads(value: ir.Value) -> bool:
    """Whether nothing but `HardSwish` reads `value`."""
    readers = [use.node for use in value.uses()]
    return bool(readers) and not value.is_graph_output() and all(is_op(one, "HardSwish") for one in readers)


def _grid_at_knee(value: ir.Value, covered: ValueRange) -> Grid:
    """-3 is code 0, and 0 a code: then x + 3 is the code itself times the scale, and the gate a `Clip`."""
    steps = math.floor(KNEE / ((max(covered.high, 0.0) + KNEE) / STEPS))
    scale, zero = np.float32(KNEE / max(1, steps)), np.uint8(max(1, steps))
    return Grid(value, scale, zero, scale, zero)


def _fitted(scale: float, offset: float) -> float:
    """The scale, stretched a little where that makes `offset` a whole number of steps."""
    steps = math.floor(abs(offset) / scale)
    return abs(offset) / steps if steps >= FINE_ENOUGH else scale


def _affine(value: ir.Value) -> tuple[ir.Value, float, float]:
    """(base, factor, offset): `value` is base · factor + offset with numbers, the factor above zero."""
    base, factor, offset = value, 1.0, 0.0
    while (step := _step(base)) is not None and step[1] > 0:
        base, offset, factor = step[0], offset + factor * step[2], factor * step[1]
    return base, factor, offset


def _step(value: ir.Value) -> tuple[ir.Value, float, float] | None:
    node = made_by(value, "Mul", "Add", "Div", "Sub")
    number = None if node is None else scalar(node.inputs[1])
    source = None if node is None else node.inputs[0]
    if node is None or number is None or source is None or (node.op_type == "Div" and number == 0):
        return None
    factor, offset = {
        "Mul": (number, 0.0),
        "Div": (1 / number if number else 0.0, 0.0),
        "Add": (1.0, number),
        "Sub": (1.0, -number),
    }[node.op_type]
    return source, factor, offset
