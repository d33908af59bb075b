"""Building one stage table: values of the graph → buffers, regions → stages."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from intaglio.backends.tvm.arena import Arena
from intaglio.backends.tvm.lifetimes import PLANNED, plan
from intaglio.backends.tvm.program import (
    POINTERS,
    ROW,
    Buffer,
    Exchange,
    ForeignCall,
    Guard,
    KernelCode,
    Stage,
    StageTable,
    align,
)

FLOAT = 4  # bytes
FEW_ROWS = 64  # up to so many, the kernels for a few rows are faster than those with panels


@dataclass
class Pieces:
    """What all tables of a program share: kernels and buffers, each kept once."""

    arena: Arena = field(default_factory=Arena)
    kernels: list[KernelCode] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)  # of buffers, by name
    slots: int = 1  # sequences that the cache holds

    def kernel(self, kernel: Any) -> int:
        """The index of `kernel`."""
        code = KernelCode(type(kernel).__name__, dataclasses.asdict(kernel))
        if code not in self.kernels:
            self.kernels.append(code)
        return self.kernels.index(code)

    def buffer(self, buffer: Buffer) -> int:
        """The index of `buffer`; one of the same name grows to the larger size."""
        index = self.numbers.setdefault(buffer.name, len(self.buffers))
        if index == len(self.buffers):
            self.buffers.append(buffer)
        elif self.buffers[index].bytes < buffer.bytes:
            self.buffers[index] = buffer
        return index

    def planned(self, tables: Sequence[StageTable]) -> tuple[tuple[Buffer, ...], tuple[StageTable, ...]]:
        """All buffers where they lie, and `tables` with the buffers' new numbers.

        What lives between calls lies one after another, the rest as `lifetimes` plans it.
        """
        ends: Counter[str] = Counter()
        placed = []
        for buffer in self.buffers:
            placed.append(buffer)
            if buffer.space not in ("weights", *PLANNED):
                placed[-1] = dataclasses.replace(buffer, offset=ends[buffer.space])
                ends[buffer.space] += align(buffer.bytes)
        return plan(placed, tables)


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

    Every value has a buffer of its own; those whose lifetimes allow it are laid into the same place later.
    """

    name: str
    tokens: int  # most tokens of a call; 1 selects the kernels for one token
    pieces: Pieces
    coarse: frozenset[str] = frozenset()  # sites whose products round weights anew
    stages: list[Stage] = field(default_factory=list)
    places: dict[ir.Value, Place] = field(default_factory=dict)
    readers: Counter[ir.Value] = field(default_factory=Counter)
    foreign: list[ForeignCall] = field(default_factory=list)
    guard: Guard | None = None  # of the stages to come
    region: int = 0  # how many were before

    @property
    def single(self) -> bool:
        """Whether the table is for one token a call."""
        return self.tokens == 1

    @property
    def few(self) -> bool:
        """Whether the table takes the kernels for a few rows."""
        return 1 < self.tokens <= FEW_ROWS

    @property
    def batched(self) -> bool:
        """Whether every row is a token of a sequence of its own."""
        return self.name == "batch"

    @property
    def every_row(self) -> bool:
        """Whether the logits of all rows are wanted, not just those of the last."""
        return self.name in ("batch", "score", "review")

    @property
    def rows(self) -> int:
        """Tokens that buffers have room for: the last tile of a matrix product is computed whole."""
        return 1 if self.single else self.tokens + 8

    def add(self, kernel: Any, buffers: list[int], site: str, *, barrier: bool, count: int = 0) -> None:
        """Append a stage; its buffers are in the order of the kernel's pointers, `count` as in `Stage`."""
        assert len(buffers) == len(kernel.pointers) <= ROW - POINTERS, f"{kernel}: {kernel.pointers}"
        number = self.pieces.kernel(kernel)
        self.stages.append(Stage(number, tuple(buffers), barrier, site, self.guard, count))

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
        name = f"{self.name}.value.{len(self.pieces.buffers)}"
        buffer = Buffer(name, "private" if kind == "own" else "workspace", size)
        self.places[value] = Place(self.pieces.buffer(buffer), stride, kind)
        return self.places[value]

    def scratch(self, name: str, bytes_per_token: int) -> int:
        """A buffer used within one region: for one token a copy for each worker, else one shared by all."""
        if self.single:
            return self.private(name, bytes_per_token)
        size = bytes_per_token * self.rows
        return self.pieces.buffer(Buffer(f"{self.name}.{self.region}.{name}", "workspace", size))

    def private(self, name: str, size: int) -> int:
        """A buffer of `size` bytes for each worker; the same for the same name within a region."""
        return self.pieces.buffer(Buffer(f"{self.name}.{self.region}.{name}", "private", size))

    def given(self, name: str) -> int:
        """A buffer of an int32 for each row that the caller fills: "tokens", "positions" or "slots"."""
        return self.pieces.buffer(Buffer(name, "tokens", FLOAT * self.tokens))

    def read(self, value: ir.Value) -> Place:
        """Where `value` is, for one of its readers."""
        self.readers[value] -= 1
        return self.places[value]

    def end_region(self) -> None:
        """Let the next region have scratch buffers of its own."""
        self.region += 1

    def call_foreign(self, region: int, inputs: list[Exchange], outputs: list[Exchange]) -> None:
        """Run a foreign region after the stages so far."""
        self.foreign.append(ForeignCall(region, len(self.stages), tuple(inputs), tuple(outputs)))

    def take_over(self, old: ir.Value, new: ir.Value) -> Place:
        """Let `new` be computed in place of `old`, whose last reader this is."""
        assert self.readers[old] == 1, f"{old.name} has {self.readers[old]} readers left"
        self.readers[old] = 0
        self.places[new] = self.places[old]
        return self.places[new]
