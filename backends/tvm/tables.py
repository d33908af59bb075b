"""Building one stage table: values of the graph → buffers, regions → stages."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from intaglio.backends.tvm.arena import Arena
from intaglio.backends.tvm.program import (
    POINTERS,
    ROW,
    Buffer,
    Exchange,
    ForeignCall,
    Guard,
    KernelCode,
    Stage,
    align,
)

FLOAT = 4  # bytes


@dataclass
class Pieces:
    """What all tables of a program share: kernels and buffers, each kept once."""

    arena: Arena = field(default_factory=Arena)
    kernels: list[KernelCode] = field(default_factory=list)
    buffers: dict[str, Buffer] = field(default_factory=dict)

    def kernel(self, kernel: Any) -> int:
        """The index of `kernel`."""
        code = KernelCode(type(kernel).__name__, dataclasses.asdict(kernel))
        if code not in self.kernels:
            self.kernels.append(code)
        return self.kernels.index(code)

    def buffer(self, buffer: Buffer) -> int:
        """The index of `buffer`; one of the same name grows to the larger size."""
        known = self.buffers.get(buffer.name)
        if known is not None and known.bytes >= buffer.bytes:
            buffer = known
        self.buffers[buffer.name] = buffer
        return list(self.buffers).index(buffer.name)

    def placed(self) -> tuple[Buffer, ...]:
        """All buffers, those of a space one after another."""
        ends: Counter[str] = Counter()
        placed = []
        for buffer in self.buffers.values():
            if buffer.space in ("weights", "private"):
                placed.append(buffer)
                continue
            placed.append(dataclasses.replace(buffer, offset=ends[buffer.space]))
            ends[buffer.space] += align(buffer.bytes)
        return tuple(placed)


@dataclass(frozen=True)
class Place:
    """Where a value of the graph is while a table runs."""

    buffer: int
    stride: int  # floats from token to token
    rows: str  # "all" tokens, one "shared" token, or a copy of it for each worker ("own")
    offset: int = 0  # of its first column, in floats


@dataclass
class TableBuilder:
    """One table: its stages so far, and where the graph's values are.

    Workspace is shared by size: a value's buffer is free again after its last reader.
    """

    name: str
    tokens: int  # most tokens of a call; 1 selects the kernels for one token
    pieces: Pieces
    stages: list[Stage] = field(default_factory=list)
    places: dict[ir.Value, Place] = field(default_factory=dict)
    readers: Counter[ir.Value] = field(default_factory=Counter)
    free: list[Buffer] = field(default_factory=list)
    finished: list[Place] = field(default_factory=list)  # read for the last time since the last barrier
    foreign: list[ForeignCall] = field(default_factory=list)
    guard: Guard | None = None  # of the stages to come

    @property
    def single(self) -> bool:
        """Whether the table is for one token a call."""
        return self.tokens == 1

    @property
    def rows(self) -> int:
        """Tokens that buffers have room for: the last tile of a matrix product is computed whole."""
        return 1 if self.single else self.tokens + 8

    def add(self, kernel: Any, buffers: list[int], site: str, *, barrier: bool) -> None:
        """Append a stage; its buffers are in the order of the kernel's pointers."""
        assert len(buffers) == len(kernel.pointers) <= ROW - POINTERS, f"{kernel}: {kernel.pointers}"
        self.stages.append(Stage(self.pieces.kernel(kernel), tuple(buffers), barrier, site, self.guard))

    def guarded_by(self, guard: Guard | None) -> None:
        """Let the stages to come be skipped where `guard` is zero; `None`: never.

        Guarded stages are skipped with their barriers, so that everyone waits before the first of them.
        """
        if guard is not None and guard != self.guard:
            self.wait()
        self.guard = guard

    def wait(self) -> None:
        """Put a barrier after the last stage."""
        if self.stages:
            self.stages[-1] = dataclasses.replace(self.stages[-1], barrier=True)

    def wait_for_rows(self, source: Place) -> None:
        """Put a barrier before a stage that reads rows of `source` which other workers may have computed."""
        if source.rows == "all":
            self.wait()

    def new(self, value: ir.Value, stride: int, rows: str | None = None) -> Place:
        """A workspace buffer for `value`, `stride` floats a row.

        `rows` is as in `Place`; left out, one row for one token and a row for each of many.
        """
        kind = rows or ("shared" if self.single else "all")
        size = FLOAT * stride * (self.rows if kind == "all" else 1)
        buffer = self._take(size, "private" if kind == "own" else "workspace")
        self.places[value] = Place(self.pieces.buffer(buffer), stride, kind)
        return self.places[value]

    def scratch(self, name: str, bytes_per_token: int) -> int:
        """A buffer used within one region: for one token a copy for each worker, else one shared by all."""
        if self.single:
            return self.private(name, bytes_per_token)
        size = bytes_per_token * self.rows
        return self.pieces.buffer(Buffer(f"{self.name}.{name}", "workspace", size))

    def private(self, name: str, size: int) -> int:
        """A buffer of `size` bytes for each worker."""
        return self.pieces.buffer(Buffer(f"private.{name}", "private", size))

    def read(self, value: ir.Value) -> Place:
        """Where `value` is, for one of its readers."""
        place = self.places[value]
        self.readers[value] -= 1
        if self.readers[value] == 0:
            self.finished.append(place)
        return place

    def end_region(self) -> None:
        """Free what was read for the last time, unless a worker may still be reading it."""
        handed_over = bool(self.foreign) and self.foreign[-1].before == len(self.stages)
        if self.stages and not self.stages[-1].barrier and not handed_over:
            return
        buffers = list(self.pieces.buffers.values())
        done = (buffers[index] for index in sorted({place.buffer for place in self.finished}))
        self.free += [one for one in done if _is_shared_by_size(one)]
        self.finished.clear()

    def call_foreign(self, region: int, inputs: list[Exchange], outputs: list[Exchange]) -> None:
        """Run a foreign region after the stages so far."""
        self.foreign.append(ForeignCall(region, len(self.stages), tuple(inputs), tuple(outputs)))

    def take_over(self, old: ir.Value, new: ir.Value) -> Place:
        """Let `new` be computed in place of `old`, whose last reader this is."""
        assert self.readers[old] == 1, f"{old.name} has {self.readers[old]} readers left"
        self.readers[old] = 0
        self.places[new] = self.places[old]
        return self.places[new]

    def _take(self, size: int, space: str) -> Buffer:
        found = next((one for one in self.free if (one.bytes, one.space) == (size, space)), None)
        if found is not None:
            self.free.remove(found)
            return found
        prefix = f"{self.name}.{space}.value"
        taken = sum(name.startswith(prefix) for name in self.pieces.buffers)
        return Buffer(f"{prefix}.{taken}", space, size)


def _is_shared_by_size(buffer: Buffer) -> bool:
    return f".{buffer.space}.value." in buffer.name
