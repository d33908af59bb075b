"""A program in memory: its spaces, its tables with absolute addresses, and calls of them.

The cache has a slot for each of `batch` sequences. Tables of one sequence find it by their addresses: there
is a copy of such a table for every slot that has been used. In the table "batch", slots are data.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from intaglio.backends.tvm.foreign import ForeignRunner, OpenedRegion
from intaglio.backends.tvm.library import Library
from intaglio.backends.tvm.memory import allocate, read_weights
from intaglio.backends.tvm.program import ALIGNMENT, POINTERS, ROW, Buffer, Program, Stage, StageTable
from intaglio.kernels.choose.selection import BLOCK

Timed = list[tuple[str, float]]  # site and seconds of the stages between barriers


class RunningProgram:
    """The memory of a program, and its workers."""

    def __init__(
        self, program: Program, weights: Path, library: Path, threads: int, regions: Sequence[OpenedRegion]
    ) -> None:
        """Map `weights`, load `library`, start `threads` workers; `regions` are the program's foreign ones.

        Raises:
            OptionError: for a number of threads that this machine has not.
            ArtifactError, CodegenError: where a file does not fit the program, or the library does not load.
        """
        self.program = program
        self.positions = [0] * program.batch  # tokens in the cache, by slot
        self.library = Library(library, threads)
        self.spaces = {
            space: read_weights(weights, size) if space == "weights" else allocate(size)
            for space, size in program.space_sizes(threads).items()
        }
        self._tables: dict[tuple[str, int], NDArray[np.int64]] = {}
        assert len(regions) == len(program.foreign), "every foreign region of the program is opened"
        self._foreign = ForeignRunner(regions, program, self._rows_of)
        for table in program.tables:
            self._resolved(table, 0)
        # Tables that do not ask for one of them leave no such buffer.
        self._given = {one.name: self._view(one) for one in program.buffers if one.space == "tokens"}

    def extend(self, name: str, ids: NDArray[np.int32], slot: int, timed: Timed | None = None) -> None:
        """Run table `name` over `ids`, the next tokens of the sequence in `slot`."""
        self._run(name, ids, {"tokens": ids}, slot, timed)
        self.positions[slot] += len(ids)

    def append(self, ids: NDArray[np.int32], slot: int) -> None:
        """Extend by any number of tokens, through the tables that suit; logits are those after the last."""
        start = 0
        while start < len(ids):
            table = self.program.table_for(len(ids) - start)
            self.extend(table.name, ids[start : start + table.tokens], slot)
            start += table.tokens

    def extend_many(self, tokens: Mapping[int, int]) -> None:
        """Run the table "batch" over one token for each slot in `tokens`; rows are in their order."""
        slots = list(tokens)
        ids = np.fromiter(tokens.values(), np.int32, len(slots))
        positions = np.array([self.positions[slot] for slot in slots], np.int32)
        given = {"tokens": ids, "positions": positions, "slots": np.array(slots, np.int32)}
        self._run("batch", ids, given, 0, None)
        for slot in slots:
            self.positions[slot] += 1

    def time_rows(self, rows: int, position: int) -> float:
        """See `NativeSession.time_rows`."""
        self.positions[:] = [position] * self.program.batch
        tokens = np.zeros(rows, np.int32)
        with self.library.pinned():
            start = time.perf_counter()
            if rows == 1:
                self.extend("decode", tokens, 0)
            elif rows <= self.program.batch:
                self.extend_many(dict.fromkeys(range(rows), 0))
            else:
                self.score(tokens)
            seconds = time.perf_counter() - start
        self.positions[:] = [0] * self.program.batch
        return seconds

    def score(self, ids: NDArray[np.int32]) -> None:
        """Extend the first sequence through the table that leaves the logits of all rows of its last part."""
        step = self.program.table("score").tokens
        for start in range(0, len(ids), step):
            self.extend("score", ids[start : start + step], 0)

    def logits(self, rows: int) -> NDArray[np.float32]:
        """A view of the logits `[rows, vocabulary]` of the last call."""
        vocabulary = self.program.vocabulary
        stride = -(-vocabulary // 16) * 16
        values: NDArray[np.float32] = self.spaces["logits"][: rows * stride * 4].view(np.float32)
        return values.reshape(rows, stride)[:, :vocabulary]

    def maxima(self, rows: int) -> NDArray[np.float32]:
        """A view of the maxima of blocks of logits, `[rows, blocks]`; not left by the table "score"."""
        blocks = -(-self.program.vocabulary // BLOCK)
        stride = -(-blocks // 16) * 16
        values: NDArray[np.float32] = self.spaces["maxima"][: rows * stride * 4].view(np.float32)
        return values.reshape(rows, stride)[:, :blocks]

    def _run(
        self,
        name: str,
        ids: NDArray[np.int32],
        given: Mapping[str, NDArray[np.int32]],
        slot: int,
        timed: Timed | None,
    ) -> None:
        """Run a table over its rows: its stages, and between them the regions of onnxruntime."""
        for buffer, values in given.items():
            if buffer in self._given:
                self._given[buffer][: len(values)] = values
        table, start, position = self.program.table(name), 0, self.positions[slot]
        for call in table.foreign:
            self._run_stages(table, slot, slice(start, call.before), len(ids), timed)
            start = call.before
            seconds = self._foreign.run(call, ids, position)
            if timed is not None:
                timed.append((self.program.foreign[call.region].site, seconds))
        self._run_stages(table, slot, slice(start, len(table.stages)), len(ids), timed)

    def _run_stages(self, table: StageTable, slot: int, part: slice, rows: int, timed: Timed | None) -> None:
        if part.start == part.stop:
            return
        marks = None if timed is None else np.zeros(part.stop - part.start + 1, np.int64)
        self.library.run(self._resolved(table, slot)[part], rows, self.positions[slot], marks)
        if marks is not None and timed is not None:
            timed += _times(table.stages[part], marks)

    def _rows_of(self, index: int) -> NDArray[np.float32]:
        """All of a buffer of rows, from its first float on; of private ones the first worker's."""
        rows: NDArray[np.float32] = self._view(self.program.buffers[index]).view(np.float32)
        return rows

    def _view(self, buffer: Buffer) -> NDArray[np.int32]:
        start = self._start(buffer)
        words: NDArray[np.int32] = self.spaces[buffer.space][start : start + buffer.bytes].view(np.int32)
        return words

    def _resolved(self, table: StageTable, slot: int) -> NDArray[np.int64]:
        """Rows of kernel, barrier, guard, count and absolute addresses, for the sequence in `slot`."""
        if (table.name, slot) not in self._tables:
            self._tables[table.name, slot] = self._resolve(table, slot)
        return self._tables[table.name, slot]

    def _resolve(self, table: StageTable, slot: int) -> NDArray[np.int64]:
        addresses = [self._address(buffer, slot) for buffer in self.program.buffers]
        memory = allocate(len(table.stages) * ROW * 8)
        rows: NDArray[np.int64] = memory[: len(table.stages) * ROW * 8].view(np.int64).reshape(-1, ROW)
        for row, stage in zip(rows, table.stages, strict=True):
            guard = 0 if stage.guard is None else addresses[stage.guard.buffer] + 4 * stage.guard.offset
            row[:POINTERS] = stage.kernel, stage.barrier, guard, stage.count
            row[POINTERS : POINTERS + len(stage.buffers)] = [addresses[index] for index in stage.buffers]
        return rows

    def _start(self, buffer: Buffer) -> int:
        """Where `buffer` begins in its space; private ones lie as many times as there are workers."""
        return buffer.offset * (self.library.threads if buffer.space == "private" else 1)

    def _address(self, buffer: Buffer, slot: int) -> int:
        part = buffer.bytes // self.program.batch if buffer.space == "state" else 0
        address = self.spaces[buffer.space].ctypes.data + self._start(buffer) + slot * part
        assert address % ALIGNMENT == 0, f"{buffer.name} is at {address:#x}"
        return int(address)


def _times(stages: Sequence[Stage], marks: NDArray[np.int64]) -> Timed:
    """Site and seconds of the stages between barriers; stages that were skipped left no mark."""
    ends = [
        (stage.site, int(mark))
        for stage, mark in zip(stages, marks[1:], strict=True)
        if stage.barrier and mark
    ]
    starts = [int(marks[0]), *(mark for _, mark in ends)]
    return [(site, (mark - start) * 1e-9) for (site, mark), start in zip(ends, starts, strict=False)]
