"""Movements as data: which element goes where. Importing this needs no TVM."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from intaglio.compiler.errors import CodegenError

if TYPE_CHECKING:
    from intaglio.kernels.instructions import Instructions
    from intaglio.kernels.tir import KernelFrame

BYTES = {"float32": 4, "int32": 4, "int64": 8, "uint8": 1, "int8": 1}  # of an element


@dataclass(frozen=True)
class MovedAxis:
    """One index of a movement, `0 … extent` in the result; the first and last ones may be filled.

    Index i reads at `(i - before) · source`, unless it is among the first `before` or the last `after`.
    """

    extent: int
    source: int  # stride in elements; 0 repeats, negative ones reverse
    result: int  # stride in elements
    before: int = 0
    after: int = 0

    @property
    def valid(self) -> int:
        """Indices that read the source."""
        return max(0, self.extent - self.before - self.after)

    @property
    def whole(self) -> bool:
        """Whether nothing is filled."""
        return self.before == self.after == 0


@dataclass(frozen=True)
class Movement:
    """`result[result_offset + Σ iₖ · resultₖ] = source[source_offset + Σ (iₖ - beforeₖ) · sourceₖ]`.

    Or `fill`, outside the source. For all indices of all axes, in any order; no two may lead to one place of
    the result, which may not overlap with the source. Workers share the work. Pointers: source (unless
    everything is filled), result; both of type `element`, a key of `BYTES`; booleans are uint8.

    Raises:
        CodegenError: for other elements, or axes that cannot be.
    """

    element: str
    axes: tuple[MovedAxis, ...]
    source_offset: int = 0
    result_offset: int = 0
    fill: float = 0.0

    def __post_init__(self) -> None:
        problems = [] if self.element in BYTES else [f"there are no elements {self.element!r}"]
        problems += [
            f"axis {i}: {axis}"
            for i, axis in enumerate(self.axes)
            if axis.extent < 1 or min(axis.before, axis.after) < 0 or axis.before + axis.after > axis.extent
        ]
        problems += [
            f"axis {i} writes {axis.extent} elements to one place"
            for i, axis in enumerate(self.axes)
            if axis.result == 0 and axis.extent > 1
        ]
        if problems:
            raise CodegenError("movement: " + "; ".join([*problems, "please report this"]))

    @property
    def filled(self) -> bool:
        """Whether nothing is read."""
        return any(axis.valid == 0 for axis in self.axes)

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        return dict.fromkeys(["result"] if self.filled else ["source", "result"], self.element)

    def canonical(self) -> Movement:
        """The same movement, its axes in the order of the result's memory and as few as can be."""
        axes = [axis for axis in self.axes if axis.extent > 1 or not axis.whole]
        axes.sort(key=lambda axis: -abs(axis.result))
        merged: list[MovedAxis] = []
        for axis in axes:
            if merged and (joined := _joined(merged[-1], axis)) is not None:
                merged[-1] = joined
            else:
                merged.append(axis)
        return dataclasses.replace(self, axes=tuple(merged or [MovedAxis(1, 1, 1)]))

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        from intaglio.kernels.movement.kernel import emit_movement  # imports TVM

        del instructions  # copies are the same for all
        emit_movement(self.canonical(), frame)


def _joined(outer: MovedAxis, inner: MovedAxis) -> MovedAxis | None:
    """Both as one axis, if their elements are evenly spaced."""
    even = (outer.source, outer.result) == (inner.extent * inner.source, inner.extent * inner.result)
    if not even or not (outer.whole and inner.whole):
        return None
    return MovedAxis(outer.extent * inner.extent, inner.source, inner.result)
