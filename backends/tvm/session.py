"""A running program as a `DecoderSession`: one sequence, in the first slot of the cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from intaglio.backends.tvm.batch_session import BatchSession
from intaglio.backends.tvm.ceilings import Ceilings, measure_ceilings
from intaglio.backends.tvm.foreign import OpenedRegion
from intaglio.backends.tvm.program import Program
from intaglio.backends.tvm.running import RunningProgram, Timed
from intaglio.backends.tvm.tokens import checked_tokens
from intaglio.compiler.errors import OptionError
from intaglio.kernels.choose.selection import likeliest_by_blocks


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
        self.running = RunningProgram(program, weights, library, threads, regions)
        self._program = program

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
        return self.running.positions[0]

    @property
    def threads(self) -> int:
        """Workers, of which the caller's thread is the first."""
        return self.running.library.threads

    @property
    def memory(self) -> dict[str, int]:
        """Bytes of every space of the program, as allocated; pages come into being when they are touched."""
        return self._program.space_sizes(self.running.library.threads)

    @property
    def sequences(self) -> BatchSession:
        """All sequences that the cache has room for, this one being the first."""
        return BatchSession(self.running)

    def reset(self, position: int = 0) -> None:
        """Forget all tokens from `position` on."""
        if not 0 <= position <= self.position:
            raise OptionError(
                f"reset: position {position} is outside 0 … {self.position}, the tokens in the cache"
            )
        self.running.positions[0] = position

    def extend(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append `tokens`; float32 logits `[vocabulary]` after the last one."""
        self._append(self._checked(tokens))
        logits: NDArray[np.float32] = self.running.logits(1)[0].copy()
        return logits

    def best(self, tokens: Sequence[int], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Append `tokens`; the `count` likeliest ones to follow, likeliest first, with their logits.

        Of equals, the lowest id comes first, as in numpy's argmax. What is no number counts as infinite.
        """
        if not 1 <= count <= self.vocabulary:
            raise OptionError(f"best: {count} is outside 1 … {self.vocabulary}, the tokens there are")
        self._append(self._checked(tokens))
        logits = self.running.logits(1)[0]
        found = likeliest_by_blocks(logits, self.running.maxima(1)[0], count)
        return found, logits[found]

    def choose(self, tokens: Sequence[int]) -> int:
        """Append `tokens`; the likeliest token after the last one."""
        return int(self.best(tokens, 1)[0][0])

    def score(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append `tokens`; float32 logits `[len(tokens), vocabulary]` after each.

        Where the plan says prefill=int8, that holds for texts longer than the drafts that "score" takes, too.
        """
        ids = self._checked(tokens)
        result = np.empty((len(ids), self.vocabulary), np.float32)
        table = self._program.table_for_scores(len(ids))
        with self.running.library.pinned():
            for start in range(0, len(ids), table.tokens):
                part = ids[start : start + table.tokens]
                self.running.extend(table.name, part, 0)
                result[start : start + len(part)] = self.running.logits(len(part))
        return result

    def profile(self, tokens: Sequence[int]) -> list[tuple[str, float]]:
        """Append `tokens` (at most one prefill chunk) and time the stages between barriers: site, seconds."""
        ids = self._checked(tokens)
        table = self._program.table_for(len(ids))
        if len(ids) > table.tokens:
            raise OptionError(f"profile: {len(ids)} tokens are more than one chunk of {table.tokens}")
        timed: Timed = []
        with self.running.library.pinned():
            self.running.extend(table.name, ids, 0, timed)
        return timed

    def time_rows(self, rows: int, position: int) -> float:
        """Seconds of a step of `rows` rows after `position` tokens, which are whatever the cache holds.

        Rows are tokens of as many sequences where the program has slots for them, and tokens of one
        otherwise. No sequence holds any tokens afterwards.
        """
        return self.running.time_rows(rows, position)

    def measure_ceilings(self) -> Ceilings:
        """What this machine could do at best right now, with this session's threads."""
        return measure_ceilings(self.running.library, self._program)

    def close(self) -> None:
        """Stop the workers."""
        self.running.library.close()

    def _checked(self, tokens: Sequence[int]) -> NDArray[np.int32]:
        return checked_tokens(tokens, self._program, self.position)

    def _append(self, ids: NDArray[np.int32]) -> None:
        with self.running.library.pinned():
            self.running.append(ids, 0)
