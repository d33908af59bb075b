"""A running graph: memory, tables with absolute addresses, and calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from intaglio.backends.tvm.graphs.calls import CallKey, key_of
from intaglio.backends.tvm.graphs.program import GraphProgram, GraphTable, Port, RegionCall
from intaglio.backends.tvm.library import Library
from intaglio.backends.tvm.memory import allocate, read_weights
from intaglio.backends.tvm.program import ALIGNMENT, POINTERS, ROW

Array = NDArray[np.generic]


class BoundRegion(Protocol):
    """A region that another backend has opened over memory of ours."""

    def run(self) -> None:
        """Read the inputs where they lie, and write the outputs to theirs."""


# Opens a region's file over arrays for its inputs and outputs, by name.
OpenRegion = Callable[[Path, Mapping[str, Array], Mapping[str, Array]], BoundRegion]


class GraphSession:
    """A program of a graph in memory. One call at a time."""

    def __init__(
        self,
        program: GraphProgram,
        *,
        folder: Path,
        weights: Path,
        library: Path,
        threads: int,
        regions: OpenRegion,
    ) -> None:
        """Map `weights`, load `library`, start `threads` workers, and open the regions' files in `folder`.

        Raises:
            OptionError: for a number of threads that this machine has not.
            ArtifactError, CodegenError: where a file does not fit the program, or the library does not load.
        """
        self._program = program
        self._library = Library(library, threads)
        self._weights = read_weights(weights, program.weight_bytes)
        self._workspace = allocate(program.space_bytes("workspace"))
        self._private = [
            allocate(one.bytes * threads if one.space == "private" else 0) for one in program.buffers
        ]
        self._tables = [_Table(self, one, folder, regions) for one in program.tables]

    def fits(self, call: Mapping[str, Array]) -> bool:
        """Whether there is a table for calls like this."""
        return self._find(call) is not None

    def run(self, call: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, in memory of their own; `fits` is true for `call`."""
        table = self._find(call)
        assert table is not None, "asked before"
        with self._library.pinned():
            return table.run(call)

    def close(self) -> None:
        """Stop the workers."""
        self._library.close()

    def array(self, port: Port) -> Array:
        """The memory of a port, with its strides."""
        item = np.dtype(port.dtype).itemsize
        buffer = self._program.buffers[port.buffer]
        base = self._weights if buffer.space == "weights" else self._workspace
        memory = base[buffer.offset : buffer.offset + buffer.bytes]
        usable = memory[: memory.nbytes // item * item].view(port.dtype)[port.offset :]
        strides = tuple(item * one for one in port.strides)
        return np.lib.stride_tricks.as_strided(usable, port.shape, strides)

    def rows(self, table: GraphTable) -> NDArray[np.int64]:
        """A stage table as the code reads it."""
        addresses = [self._address(index) for index in range(len(self._program.buffers))]
        memory = allocate(max(1, len(table.stages)) * ROW * 8)
        rows: NDArray[np.int64] = memory[: len(table.stages) * ROW * 8].view(np.int64).reshape(-1, ROW)
        for row, stage in zip(rows, table.stages, strict=True):
            row[:POINTERS] = stage.kernel, stage.barrier, 0, stage.count
            row[POINTERS : POINTERS + len(stage.buffers)] = [addresses[index] for index in stage.buffers]
        return rows

    def step(self, rows: NDArray[np.int64]) -> None:
        """Run some stages."""
        if len(rows):
            self._library.run(rows, 1, 0)

    def _find(self, call: Mapping[str, Array]) -> _Table | None:
        key = key_of(call)
        return next((one for one in self._tables if one.key == key), None)

    def _address(self, index: int) -> int:
        buffer = self._program.buffers[index]
        base = {"weights": self._weights, "workspace": self._workspace}.get(
            buffer.space, self._private[index]
        )
        address = base.ctypes.data + buffer.offset
        assert address % ALIGNMENT == 0, f"{buffer.name} is at {address:#x}"
        return int(address)


class _Table:
    """One table, its ports as arrays, its regions opened over them."""

    def __init__(self, session: GraphSession, table: GraphTable, folder: Path, regions: OpenRegion) -> None:
        self._session = session
        self.key = CallKey({one.name: one.shape for one in table.inputs}, dict(table.fixed))
        self._inputs = [(one.name, session.array(one)) for one in table.inputs]
        self._outputs = [(one.name, session.array(one)) for one in table.outputs]
        rows = session.rows(table)
        starts = [0, *(one.before for one in table.regions)]
        ends = [*(one.before for one in table.regions), len(rows)]
        self._parts = [rows[start:end] for start, end in zip(starts, ends, strict=True)]
        self._regions = [_Region(session, one, folder, regions) for one in table.regions]

    def run(self, call: Mapping[str, Array]) -> dict[str, Array]:
        for name, array in self._inputs:
            array[...] = call[name]
        self._session.step(self._parts[0])
        for region, part in zip(self._regions, self._parts[1:], strict=True):
            region.run()
            self._session.step(part)
        return {name: array.copy() for name, array in self._outputs}


class _Region:
    """A region over the program's buffers; what does not lie row-major there is copied in between."""

    def __init__(self, session: GraphSession, call: RegionCall, folder: Path, regions: OpenRegion) -> None:
        self._copies: list[tuple[Array, Array]] = []
        inputs = {one.name: self._plain(session.array(one), one.plain) for one in call.inputs}
        outputs = {one.name: session.array(one) for one in call.outputs}
        self._bound = regions(folder / call.file, inputs, outputs)

    def _plain(self, array: Array, plain: bool) -> Array:
        if plain:
            return array
        copy: Array = np.empty(array.shape, array.dtype)
        self._copies.append((copy, array))
        return copy

    def run(self) -> None:
        for copy, array in self._copies:
            copy[...] = array
        self._bound.run()


def unused(*_: Any) -> BoundRegion:
    """For programs without regions."""
    raise AssertionError("the program has no region")
