"""Where a value of the graph lies: a view of a buffer with strides, as numpy has them, in elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

LANES = 16


@dataclass(frozen=True)
class View:
    """Element `i` lies at `offset + Σ i · strides` of buffer `buffer`."""

    buffer: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def plain(self) -> bool:
        """Whether it is row-major, from the buffer's beginning on."""
        wanted = row_major(self.shape)
        same = all(
            extent == 1 or mine == other
            for extent, mine, other in zip(self.shape, self.strides, wanted, strict=True)
        )
        return same and self.offset == 0

    def transposed(self, order: Sequence[int]) -> View:
        """With the axes in another order."""
        return replace(
            self,
            shape=tuple(self.shape[one] for one in order),
            strides=tuple(self.strides[one] for one in order),
        )

    def reshaped(self, shape: Sequence[int]) -> View | None:
        """The same elements in another shape, where strides can say that."""
        if self.size == 0:
            return None
        # numpy knows how; the memory behind this array is never touched.
        array = np.lib.stride_tricks.as_strided(np.empty(1, np.int8), self.shape, self.strides)
        try:
            found = np.reshape(array, tuple(shape), copy=False)
        except ValueError:
            return None
        return replace(self, shape=tuple(shape), strides=tuple(found.strides))

    def rows(self) -> tuple[int, int] | None:
        """(how many rows of the last axis there are, elements from row to row), if that is what it is."""
        if not self.shape:
            return 1, 1
        if self.shape[-1] > 1 and self.strides[-1] != 1:
            return None
        flat = self.reshaped((self.size // self.shape[-1], self.shape[-1])) if self.size else None
        if flat is None:
            return None
        return flat.shape[0], flat.strides[0] if flat.shape[0] > 1 else padded(self.shape[-1])

    def sliced(self, axis: int, start: int, step: int, extent: int) -> View:
        """Every `step`-th of an axis, from `start` on."""
        shape, strides = list(self.shape), list(self.strides)
        offset = self.offset + start * strides[axis]
        shape[axis], strides[axis] = extent, strides[axis] * step
        return replace(self, shape=tuple(shape), strides=tuple(strides), offset=offset)


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of an array without gaps."""
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return tuple(reversed(strides))


def padded(extent: int) -> int:
    """`extent` rounded up to whole vectors."""
    return -(-extent // LANES) * LANES


def row_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of rows of the last axis that are padded to whole vectors."""
    if not shape:
        return ()
    return (*(one * padded(shape[-1]) for one in row_major(shape[:-1])), 1)


def pixel_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of `[N, C, spatial …]` whose channels lie last, padded to whole vectors."""
    stride = padded(shape[1])
    images, *inner = (one * stride for one in row_major((shape[0], *shape[2:])))
    return (images, 1, *inner)


def is_pixels(view: View) -> bool:
    """Whether a view of `[N, C, spatial …]` has its channels last, padded, from the buffer's beginning on."""
    if len(view.shape) < 3 or view.offset:
        return False
    wanted = pixel_strides(view.shape)
    return all(
        extent == 1 or mine == other
        for extent, mine, other in zip(view.shape, view.strides, wanted, strict=True)
    )


def pixel_rows(view: View) -> View:
    """A view of pixels `[N, C, spatial …]` as `[N, spatial …, C]`."""
    rank = len(view.shape)
    return view.transposed((0, *range(2, rank), 1))
