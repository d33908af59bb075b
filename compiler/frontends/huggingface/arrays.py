"""Tensors that are read only when asked for: stored ones, and stacks, joins, parts and transposes of them.

A part of a stack or of a join is found without reading the rest, so that one expert of a mixture, or one
projection of a joined matrix, costs no more than itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.compiler.frontends.huggingface.safetensors import SafetensorsFile, TableEntry

Numbers: TypeAlias = NDArray[np.generic]


class Array(Protocol):
    """A tensor that can be read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its size along each axis."""

    @property
    def dtype(self) -> ir.DataType:
        """The type of its elements."""

    def read(self) -> Numbers:
        """Its elements: a view of the mapped file where that is possible."""


@dataclass(frozen=True)
class Stored:
    """A tensor of a file."""

    file: SafetensorsFile
    entry: TableEntry

    @property
    def shape(self) -> tuple[int, ...]:
        """As the file says."""
        return self.entry.shape

    @property
    def dtype(self) -> ir.DataType:
        """As the file says."""
        return self.entry.dtype

    def read(self) -> Numbers:
        """A view of the mapped file."""
        raw = np.frombuffer(self.file.data, np.uint8, self.entry.size, self.entry.offset)
        view: Numbers = raw.view(self.dtype.numpy().newbyteorder("<")).reshape(self.shape)
        return view


@dataclass(frozen=True)
class Held:
    """A tensor in memory: a computed buffer, or a parameter of a module in memory."""

    numbers: Numbers

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the numbers."""
        return self.numbers.shape

    @property
    def dtype(self) -> ir.DataType:
        """Of the numbers."""
        return ir.DataType.from_numpy(self.numbers.dtype)

    def read(self) -> Numbers:
        """The numbers themselves."""
        return self.numbers


@dataclass(frozen=True)
class Stacked:
    """Tensors of one shape along a new first axis."""

    parts: tuple[Array, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """`[parts, …]`."""
        return (len(self.parts), *self.parts[0].shape)

    @property
    def dtype(self) -> ir.DataType:
        """That of the parts."""
        return self.parts[0].dtype

    def read(self) -> Numbers:
        """A copy."""
        return np.stack([part.read() for part in self.parts])


@dataclass(frozen=True)
class Joined:
    """Tensors one after the other along `axis`."""

    parts: tuple[Array, ...]
    axis: int

    @property
    def shape(self) -> tuple[int, ...]:
        """That of a part, but for the sum along `axis`."""
        first = list(self.parts[0].shape)
        first[self.axis] = sum(part.shape[self.axis] for part in self.parts)
        return tuple(first)

    @property
    def dtype(self) -> ir.DataType:
        """That of the parts."""
        return self.parts[0].dtype

    def read(self) -> Numbers:
        """A copy."""
        return np.concatenate([part.read() for part in self.parts], self.axis)


@dataclass(frozen=True)
class Part:
    """Elements `start` to `stop` of `whole` along `axis`."""

    whole: Array
    axis: int
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the whole, but along `axis`."""
        sizes = list(self.whole.shape)
        sizes[self.axis] = self.stop - self.start
        return tuple(sizes)

    @property
    def dtype(self) -> ir.DataType:
        """That of the whole."""
        return self.whole.dtype

    def read(self) -> Numbers:
        """A view of the whole."""
        return self.whole.read()[(slice(None),) * self.axis + (slice(self.start, self.stop),)]


@dataclass(frozen=True)
class Taken:
    """Element `index` of `whole` along its first axis, without that axis."""

    whole: Array
    index: int

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the whole, but for the first axis."""
        return self.whole.shape[1:]

    @property
    def dtype(self) -> ir.DataType:
        """That of the whole."""
        return self.whole.dtype

    def read(self) -> Numbers:
        """A view of the whole."""
        element: Numbers = self.whole.read()[self.index]
        return element


@dataclass(frozen=True)
class Turned:
    """`whole` with its axes in another order."""

    whole: Array
    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the whole, in the new order."""
        return tuple(self.whole.shape[axis] for axis in self.axes)

    @property
    def dtype(self) -> ir.DataType:
        """That of the whole."""
        return self.whole.dtype

    def read(self) -> Numbers:
        """A contiguous copy, since kernels and files want rows in order."""
        return np.ascontiguousarray(self.whole.read().transpose(self.axes))


def part(whole: Array, axis: int, start: int, stop: int) -> Array:
    """Elements `start` to `stop` along `axis`; one of the joined tensors itself where it is just that."""
    if (start, stop) == (0, whole.shape[axis]):
        return whole
    if isinstance(whole, Joined) and whole.axis == axis:
        offset = 0
        for one in whole.parts:
            end = offset + one.shape[axis]
            if offset <= start and stop <= end:
                return part(one, axis, start - offset, stop - offset)
            offset = end
    return Part(whole, axis, start, stop)


def taken(whole: Array, index: int) -> Array:
    """Element `index` along the first axis; one of the stacked tensors itself where it is just that."""
    if isinstance(whole, Stacked):
        return whole.parts[index]
    if isinstance(whole, Joined) and whole.axis > 0:
        return Joined(tuple(taken(one, index) for one in whole.parts), whole.axis - 1)
    return Taken(whole, index)


def transposed(whole: Array, axes: Sequence[int] = (1, 0)) -> Array:
    """`whole` with its axes in the order `axes`."""
    return Turned(whole, tuple(axes))


def lazy_tensor(array: Array, name: str | None = None) -> ir.LazyTensor:
    """`array` as a tensor for a graph; it reads the file whenever asked for numbers, and keeps nothing."""

    def read() -> ir.Tensor[Numbers]:
        return ir.Tensor(array.read(), array.dtype)

    return ir.LazyTensor(read, array.dtype, ir.Shape(array.shape), name=name)
