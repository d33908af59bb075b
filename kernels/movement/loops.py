"""What movements of all kinds share: views of the buffers, and indices → places."""

from __future__ import annotations

from collections.abc import Sequence

from intaglio.kernels import tir
from intaglio.kernels.movement.movement import MovedAxis, Movement
from intaglio.kernels.tir import Expression, KernelFrame, tirx


def views(movement: Movement, frame: KernelFrame) -> tuple[Expression, Expression]:
    """Source and result as flat buffers."""
    reach = sum(max(0, axis.valid - 1) * max(0, axis.source) for axis in movement.axes)
    extent = sum((axis.extent - 1) * max(0, axis.result) for axis in movement.axes)
    result = frame.buffer("result", (movement.result_offset + extent + 1,), movement.element)
    if movement.filled:
        return None, result
    return frame.buffer("source", (movement.source_offset + reach + 1,), movement.element), result


def unflattened(index: Expression, axes: Sequence[MovedAxis]) -> list[Expression]:
    """A number → an index for each axis."""
    found: list[Expression] = []
    for axis in reversed(axes):
        found.insert(0, tir.hold(tirx.floormod(index, tir.int32(axis.extent))))
        index = tir.hold(tirx.floordiv(index, tir.int32(axis.extent)))
    return found


def places(
    movement: Movement, axes: Sequence[MovedAxis], indices: Sequence[Expression]
) -> tuple[Expression, Expression]:
    """Where a row starts in the source (if it is there) and in the result."""
    source, result = tir.int32(movement.source_offset), tir.int32(movement.result_offset)
    for axis, index in zip(axes, indices, strict=True):
        source = source + (index - tir.int32(axis.before)) * tir.int32(axis.source)
        result = result + index * tir.int32(axis.result)
    return tir.hold(source), tir.hold(result)


def inside(axes: Sequence[MovedAxis], indices: Sequence[Expression]) -> Expression | None:
    """Whether a row reads the source; `None`: always."""
    found: Expression | None = None
    for axis, index in zip(axes, indices, strict=True):
        conditions = []
        if axis.before:
            conditions.append(index >= tir.int32(axis.before))
        if axis.after:
            conditions.append(index < tir.int32(axis.extent - axis.after))
        for condition in conditions:
            found = condition if found is None else tirx.And(found, condition)
    return found
