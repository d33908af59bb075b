"""Several sequences at once over one program: each has a slot of the cache, and a position of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from intaglio.backends.tvm.running import RunningProgram
from intaglio.backends.tvm.tokens import checked_tokens
from intaglio.compiler.errors import OptionError
from intaglio.kernels.choose.selection import likeliest_by_blocks


class BatchSession:
    """The sequences of a running program, by slots from 0; they begin, go on and end independently."""

    def __init__(self, running: RunningProgram) -> None:
        self._running, self._program = running, running.program

    @property
    def slots(self) -> int:
        """How many sequences there may be: the batch that the program was compiled for."""
        return self._program.batch

    @property
    def vocabulary(self) -> int:
        """Number of logits."""
        return self._program.vocabulary

    @property
    def capacity(self) -> int:
        """Most tokens of each sequence."""
        return self._program.capacity

    @property
    def positions(self) -> tuple[int, ...]:
        """Tokens in the cache now, by slot."""
        return tuple(self._running.positions)

    def reset(self, slot: int, position: int = 0) -> None:
        """Forget all tokens of a sequence from `position` on."""
        self._check_slots([slot])
        known = self._running.positions[slot]
        if not 0 <= position <= known:
            raise OptionError(f"reset: position {position} is outside 0 … {known}, the tokens in slot {slot}")
        self._running.positions[slot] = position

    def extend(self, slot: int, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append `tokens` to one sequence; float32 logits `[vocabulary]` after the last one.

        Raises `OptionError` and `ContextLengthError`.
        """
        self._check_slots([slot])
        ids = checked_tokens(tokens, self._program, self._running.positions[slot])
        with self._running.library.pinned():
            self._running.append(ids, slot)
        logits: NDArray[np.float32] = self._running.logits(1)[0].copy()
        return logits

    def best(
        self, slot: int, tokens: Sequence[int], count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """As `extend`, but the `count` likeliest tokens to follow, likeliest first, with their logits."""
        self._check_count(count)
        self._check_slots([slot])
        ids = checked_tokens(tokens, self._program, self._running.positions[slot])
        with self._running.library.pinned():
            self._running.append(ids, slot)
        return self._likeliest(1, count)[0]

    def extend_many(self, tokens: Mapping[int, int]) -> NDArray[np.float32]:
        """Append a token to the sequence in each slot of `tokens`.

        Returns:
            float32 logits `[len(tokens), vocabulary]`, rows in the order of `tokens`.

        Raises:
            OptionError: for slots or tokens that there are not, or a program for single sequences.
            ContextLengthError: where a sequence has no room for it.
        """
        self._step(tokens)
        logits: NDArray[np.float32] = self._running.logits(len(tokens)).copy()
        return logits

    def best_many(
        self, tokens: Mapping[int, int], count: int
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """As `extend_many`, but of each row the `count` likeliest tokens to follow, with their logits."""
        self._check_count(count)
        self._step(tokens)
        return self._likeliest(len(tokens), count)

    def _likeliest(self, rows: int, count: int) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        found = []
        for logits, maxima in zip(self._running.logits(rows), self._running.maxima(rows), strict=True):
            tokens = likeliest_by_blocks(logits, maxima, count)
            found.append((tokens, logits[tokens]))
        return found

    def _check_count(self, count: int) -> None:
        if not 1 <= count <= self.vocabulary:
            raise OptionError(f"best: {count} is outside 1 … {self.vocabulary}, the tokens there are")

    def _step(self, tokens: Mapping[int, int]) -> None:
        if self.slots == 1:
            raise OptionError(
                "batch: this model was compiled for 1 sequence at a time: compile it with a workload of "
                "more, such as Workload(batch=8)."
            )
        if not tokens:
            raise OptionError("batch: no sequence is to be extended: give a token for at least one slot.")
        self._check_slots(list(tokens))
        for slot, token in tokens.items():
            checked_tokens([token], self._program, self._running.positions[slot])
        with self._running.library.pinned():
            self._running.extend_many(tokens)

    def _check_slots(self, slots: Sequence[int]) -> None:
        wrong = [one for one in slots if not (isinstance(one, int) and 0 <= one < self.slots)]
        if wrong:
            raise OptionError(
                f"batch: slots {wrong} are outside 0 … {self.slots - 1}: this model was compiled for batches "
                f"of up to {self.slots}."
            )
