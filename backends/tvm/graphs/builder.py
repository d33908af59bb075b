"""Building one stage table of a graph: buffers with lifetimes, stages, barriers where they are needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.backends.tvm.arena import Arena
from intaglio.backends.tvm.graphs.program import RegionCall
from intaglio.backends.tvm.graphs.views import View, pixel_strides, row_major, row_strides
from intaglio.backends.tvm.placement import Lifetime, place
from intaglio.backends.tvm.program import Buffer, KernelCode, Stage

SLACK = 512  # bytes after a buffer: kernels read and write whole vectors


@dataclass
class Shared:
    """What all tables of a program share: kernels, weights and private buffers, each kept once."""

    arena: Arena = field(default_factory=Arena)
    kernels: list[KernelCode] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)  # buffers by name

    def kernel(self, kernel: Any) -> int:
        """The index of `kernel`."""
        code = KernelCode(type(kernel).__name__, dataclasses.asdict(kernel))
        if code not in self.kernels:
            self.kernels.append(code)
        return self.kernels.index(code)

    def buffer(self, buffer: Buffer) -> int:
        """The index of `buffer`; of one name there is one."""
        if buffer.name not in self.numbers:
            self.numbers[buffer.name] = len(self.buffers)
            self.buffers.append(buffer)
        return self.numbers[buffer.name]

    def stored(self, name: str, size: int, make: Callable[[], NDArray[Any]]) -> int:
        """A section of the arena: what `make` gives, `size` bytes of it."""
        sections = self.arena.place(name, {"values": size}, lambda: [("values", make())])
        ((offset, _),) = sections.values()
        return self.buffer(Buffer(f"weights.{name}", "weights", size, offset))

    def private(self, size: int) -> int:
        """`size` bytes for each worker, for use within one stage."""
        return self.buffer(Buffer(f"private.{size}", "private", size))


@dataclass
class _Span:
    bytes: int
    first: int
    last: int


@dataclass
class TableBuilder:
    """One table: its stages so far, and where the graph's values are.

    Stages between two barriers form an epoch, in which workers are not in step: a buffer that one of them
    uses is not another's as long as the epoch lasts.
    """

    name: str
    shared: Shared
    stages: list[Stage] = field(default_factory=list)
    regions: list[RegionCall] = field(default_factory=list)
    views: dict[ir.Value, View] = field(default_factory=dict)
    epoch: int = 0
    _dirty: set[int] = field(default_factory=set)  # buffers written since the last barrier
    _spans: dict[int, _Span] = field(default_factory=dict)
    _kept: set[int] = field(default_factory=set)  # buffers that are read after the end

    def new(self, dtype: str, shape: Sequence[int], strides: Sequence[int]) -> View:
        """A workspace buffer for a tensor with `strides`."""
        item = np.dtype(dtype).itemsize
        reach = sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True)) + 1
        size = max(reach, 1) * item + SLACK
        buffer = self.shared.buffer(Buffer(f"{self.name}.{len(self._spans)}", "workspace", size))
        self._spans[buffer] = _Span(size, self.epoch, self.epoch)
        return View(buffer, dtype, tuple(shape), tuple(strides))

    def plain(self, value: ir.Value) -> View:
        """A new row-major buffer for `value`."""
        shape = shape_of(value)
        return self.put(value, self.new(dtype_of(value), shape, row_major(shape)))

    def rows(self, value: ir.Value) -> View:
        """A new buffer for `value` whose last axis is padded to whole vectors."""
        shape = shape_of(value)
        return self.put(value, self.new(dtype_of(value), shape, row_strides(shape)))

    def pixels(self, value: ir.Value) -> View:
        """A new buffer for `value`, `[N, C, spatial …]`, whose channels lie last."""
        shape = shape_of(value)
        return self.put(value, self.new(dtype_of(value), shape, pixel_strides(shape)))

    def put(self, value: ir.Value, view: View) -> View:
        """Say that `value` lies at `view`."""
        self.views[value] = view
        return view

    def add(
        self, kernel: Any, buffers: Sequence[int], site: str, *, writes: Sequence[int], count: int = 1
    ) -> None:
        """Append a stage; `buffers` are in the order of the kernel's pointers; `writes` are some of them."""
        assert len(buffers) == len(kernel.pointers), f"{kernel}: {list(kernel.pointers)}"
        if self._dirty & (set(buffers) | set(writes)):
            self.wait()
        for one in buffers:
            if one in self._spans:
                self._spans[one].last = self.epoch
        self._dirty |= set(writes)
        self.stages.append(Stage(self.shared.kernel(kernel), tuple(buffers), False, site, None, count))

    def wait(self) -> None:
        """Put a barrier after the last stage."""
        if self.stages and not self.stages[-1].barrier:
            self.stages[-1] = dataclasses.replace(self.stages[-1], barrier=True)
        self._dirty.clear()
        self.epoch += 1

    def call_region(self, call: RegionCall) -> None:
        """Run a region after the stages so far, which all end before it begins."""
        self.wait()
        for port in (*call.inputs, *call.outputs):
            if port.buffer in self._spans:
                span = self._spans[port.buffer]
                span.last = self.epoch
        self.regions.append(call)
        self.epoch += 1

    def keep(self, buffer: int) -> None:
        """Let `buffer` be whole at the end of the table."""
        self._kept.add(buffer)

    def finish(self) -> None:
        """Give all buffers of the table their places."""
        self.wait()
        lifetimes = [
            Lifetime(
                self.shared.buffers[index].name,
                one.bytes,
                one.first,
                self.epoch if index in self._kept else one.last,
            )
            for index, one in self._spans.items()
        ]
        if not lifetimes:
            return
        offsets = place(lifetimes).offsets
        for index in self._spans:
            buffer = self.shared.buffers[index]
            self.shared.buffers[index] = dataclasses.replace(buffer, offset=offsets[buffer.name])


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """The fixed shape of `value`."""
    assert value.shape is not None, value
    return tuple(int(one) for one in value.shape.numpy())


def dtype_of(value: ir.Value) -> str:
    """The element type of `value` as numpy calls it."""
    assert value.dtype is not None, value
    return str(value.dtype.numpy().name)


def is_known(value: ir.Value) -> bool:
    """Whether the type and all sizes of `value` are known."""
    return value.dtype is not None and value.shape is not None and value.shape.is_static()
