"""A running program: memory, tables with absolute addresses, and the calls of a `DecoderSession`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from intaglio.backends.tvm.ceilings import Ceilings, measure_ceilings
from intaglio.backends.tvm.foreign import ForeignRunner, OpenedRegion
from intaglio.backends.tvm.library import Library
from intaglio.backends.tvm.memory import allocate, read_weights
from intaglio.backends.tvm.program import ALIGNMENT, POINTERS, ROW, Buffer, Program, Stage, StageTable
from intaglio.compiler.errors import ContextLengthError, OptionError
from intaglio.kernels.choose.selection import BLOCK, likeliest_by_blocks


class NativeSession:
    """One sequence being extended by generated code; see `intaglio.compiler.session.DecoderSession`."""

    def __init__(
        self,
        program: Program,
        *,
        weights: Path,
        library: Path,
        threads: int,
        regions: Sequence[OpenedRegion] = (),
    ) -> None:
        """Map `weights`, load `library`, start `threads` workers; `regions` are the program's foreign ones.

        Raises:
            OptionError: for a number of threads that this machine has not.
            ArtifactError, CodegenError: where a file does not fit the program, or the library does not load.
        """
        self._program = program
        self._position = 0
        self._library = Library(library, threads)
        self._spaces = {
            space: read_weights(weights, size) if space == "weights" else allocate(size)
            for space, size in program.space_sizes(threads).items()
        }
        self._tables = {table.name: self._resolve(table) for table in program.tables}
        assert len(regions) == len(program.foreign), "every foreign region of the program is opened"
        self._foreign = ForeignRunner(regions, program, self._memory)

    @property
    def vocabulary(self) -> int:
        """Number of logits."""
        return self._program.vocabulary

    @property
    def capacity(self) -> int:
        """Most tokens the cache holds."""
        return self._program.capacity

    @property
    def position(self) -> int:
        """Tokens in the cache now."""
        return self._position

    @property
    def memory(self) -> dict[str, int]:
        """Bytes of every space of the program, as allocated; pages come into being when they are touched."""
        return self._program.space_sizes(self._library.threads)

    def reset(self, position: int = 0) -> None:
        """Forget all tokens from `position` on."""
        if not 0 <= position <= self._position:
            raise OptionError(
                f"reset: position {position} is outside 0 … {self._position}, the tokens in the cache"
            )
        self._position = position

    def extend(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append `tokens`; float32 logits `[vocabulary]` after the last one."""
        self._append(self._checked(tokens))
        logits: NDArray[np.float32] = self._logits(1)[0].copy()
        return logits

    def best(self, tokens: Sequence[int], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Append `tokens`; the `count` likeliest ones to follow, likeliest first, with their logits.

        Of equals, the lowest id comes first, as in numpy's argmax. What is no number counts as infinite.
        """
        if not 1 <= count <= self.vocabulary:
            raise OptionError(f"best: {count} is outside 1 … {self.vocabulary}, the tokens there are")
        self._append(self._checked(tokens))
        logits = self._logits(1)[0]
        found = likeliest_by_blocks(logits, self._maxima, count)
        return found, logits[found]

    def choose(self, tokens: Sequence[int]) -> int:
        """Append `tokens`; the likeliest token after the last one."""
        return int(self.best(tokens, 1)[0][0])

    def score(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append `tokens`; float32 logits `[len(tokens), vocabulary]` after each."""
        ids = self._checked(tokens)
        result = np.empty((len(ids), self.vocabulary), np.float32)
        step = self._program.table("score").tokens
        with self._library.pinned():
            for start in range(0, len(ids), step):
                part = ids[start : start + step]
                self._run("score", part)
                result[start : start + len(part)] = self._logits(len(part))
        return result

    def profile(self, tokens: Sequence[int]) -> list[tuple[str, float]]:
        """Append `tokens` (at most one prefill chunk) and time the stages between barriers: site, seconds."""
        ids = self._checked(tokens)
        table = self._program.table("decode" if len(ids) == 1 else "prefill")
        if len(ids) > table.tokens:
            raise OptionError(f"profile: {len(ids)} tokens are more than one chunk of {table.tokens}")
        timed: list[tuple[str, float]] = []
        with self._library.pinned():
            self._run(table.name, ids, timed)
        return timed

    def measure_ceilings(self) -> Ceilings:
        """What this machine could do at best right now, with this session's threads."""
        return measure_ceilings(self._library, self._program)

    def close(self) -> None:
        """Stop the workers."""
        self._library.close()

    def _checked(self, tokens: Sequence[int]) -> NDArray[np.int32]:
        ids = np.asarray(tokens)
        if ids.ndim != 1 or len(ids) == 0 or ids.dtype.kind not in "iu":
            raise OptionError(f"tokens: a sequence of at least one token id is wanted, not {tokens!r:.60}")
        if ids.min() < 0 or ids.max() >= self.vocabulary:
            bad = int(ids.min() if ids.min() < 0 else ids.max())
            raise OptionError(f"tokens: id {bad} is outside 0 … {self.vocabulary - 1}")
        if self._position + len(ids) > self.capacity:
            raise ContextLengthError(
                f"context: {self._position} + {len(ids)} tokens are more than the "
                f"{self.capacity} compiled for; shorten the prompt, or compile with a larger context"
            )
        return ids.astype(np.int32)

    def _append(self, ids: NDArray[np.int32]) -> None:
        name = "decode" if len(ids) == 1 else "prefill"
        step = self._program.table(name).tokens
        with self._library.pinned():
            for start in range(0, len(ids), step):
                self._run(name, ids[start : start + step])

    def _run(self, name: str, ids: NDArray[np.int32], timed: list[tuple[str, float]] | None = None) -> None:
        """Run a table over `ids`: its stages, and between them the regions of onnxruntime."""
        self._spaces["tokens"][: ids.nbytes].view(np.int32)[:] = ids
        table, start = self._program.table(name), 0
        for call in table.foreign:
            self._run_stages(table, start, call.before, len(ids), timed)
            start = call.before
            seconds = self._foreign.run(call, ids, self._position)
            if timed is not None:
                timed.append((self._program.foreign[call.region].site, seconds))
        self._run_stages(table, start, len(table.stages), len(ids), timed)
        self._position += len(ids)

    def _run_stages(
        self,
        table: StageTable,
        start: int,
        end: int,
        tokens: int,
        timed: list[tuple[str, float]] | None,
    ) -> None:
        if start == end:
            return
        marks = None if timed is None else np.zeros(end - start + 1, np.int64)
        self._library.run(self._tables[table.name][start:end], tokens, self._position, marks)
        if marks is not None and timed is not None:
            timed += _times(table.stages[start:end], marks)

    def _memory(self, index: int) -> NDArray[np.float32]:
        """All of a buffer of rows, from its first float on; of private ones the first worker's."""
        buffer = self._program.buffers[index]
        start = self._start(buffer)
        memory: NDArray[np.float32] = self._spaces[buffer.space][start : start + buffer.bytes].view(
            np.float32
        )
        return memory

    def _logits(self, rows: int) -> NDArray[np.float32]:
        stride = -(-self.vocabulary // 16) * 16
        values: NDArray[np.float32] = self._spaces["logits"][: rows * stride * 4].view(np.float32)
        return values.reshape(rows, stride)[:, : self.vocabulary]

    @property
    def _maxima(self) -> NDArray[np.float32]:
        """Of the blocks of the last row of logits."""
        values: NDArray[np.float32] = self._spaces["maxima"].view(np.float32)
        return values[: -(-self.vocabulary // BLOCK)]

    def _resolve(self, table: StageTable) -> NDArray[np.int64]:
        """Rows of kernel, barrier, guard, count and absolute addresses."""
        addresses = [self._address(buffer) for buffer in self._program.buffers]
        memory = allocate(len(table.stages) * ROW * 8)
        rows: NDArray[np.int64] = memory[: len(table.stages) * ROW * 8].view(np.int64).reshape(-1, ROW)
        for row, stage in zip(rows, table.stages, strict=True):
            guard = 0 if stage.guard is None else addresses[stage.guard.buffer] + 4 * stage.guard.offset
            row[:POINTERS] = stage.kernel, stage.barrier, guard, stage.count
            row[POINTERS : POINTERS + len(stage.buffers)] = [addresses[index] for index in stage.buffers]
        return rows

    def _start(self, buffer: Buffer) -> int:
        """Where `buffer` begins in its space; private ones lie as many times as there are workers."""
        return buffer.offset * (self._library.threads if buffer.space == "private" else 1)

    def _address(self, buffer: Buffer) -> int:
        address = self._spaces[buffer.space].ctypes.data + self._start(buffer)
        assert address % ALIGNMENT == 0, f"{buffer.name} is at {address:#x}"
        return int(address)


def _times(stages: Sequence[Stage], marks: NDArray[np.int64]) -> list[tuple[str, float]]:
    """Site and seconds of the stages between barriers; stages that were skipped left no mark."""
    ends = [
        (stage.site, int(mark))
        for stage, mark in zip(stages, marks[1:], strict=True)
        if stage.barrier and mark
    ]
    starts = [int(marks[0]), *(mark for _, mark in ends)]
    return [(site, (mark - start) * 1e-9) for (site, mark), start in zip(ends, starts, strict=False)]
