"""Where a tensor lies, and axes in the order of memory. Importing this needs no TVM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ELEMENTS = ("float32", "int32", "int64", "uint8", "int8")  # booleans are uint8


@dataclass(frozen=True)
class Operand:
    """Element i of a tensor lies at `offset + Σ iₖ · stridesₖ`; a stride of 0 repeats it."""

    strides: tuple[int, ...]
    element: str = "float32"
    offset: int = 0

    def extent(self, extents: Sequence[int]) -> int:
        """Elements of the buffer up to the last one that is used."""
        pairs = zip(extents, self.strides, strict=True)
        return self.offset + 1 + sum((extent - 1) * max(0, stride) for extent, stride in pairs)


def merged(
    extents: Sequence[int], operands: Sequence[Operand], last_alone: bool = False
) -> tuple[list[int], list[list[int]]]:
    """Axes ordered by the last operand's strides, the smallest last, and as few as can be.

    With `last_alone` the innermost axis is not merged with others.
    Returns the extents, and for each axis the strides of all operands.
    """
    axes = [(extent, [one.strides[i] for one in operands]) for i, extent in enumerate(extents) if extent > 1]
    axes.sort(key=lambda axis: [-abs(stride) for stride in reversed(axis[1])])
    found: list[tuple[int, list[int]]] = []
    for i, (extent, strides) in enumerate(axes):
        alone = last_alone and i == len(axes) - 1
        if not alone and found and found[-1][1] == [extent * stride for stride in strides]:
            found[-1] = (found[-1][0] * extent, strides)
        else:
            found.append((extent, strides))
    return [extent for extent, _ in found], [strides for _, strides in found]
