"""Generating several texts together: prompts wait for a slot, and go on in steps of all that have one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from intaglio.compiler.continuation import Continuation, Generation, GenerationOptions
from intaglio.compiler.errors import ContextLengthError, OptionError
from intaglio.compiler.generation import require_tokenizer, room_for

if TYPE_CHECKING:
    from intaglio.backends.tvm import BatchSession
    from intaglio.compiler.frontends.traced import Tokenizer

Show = Callable[[int, str], object]  # (number of the prompt, piece of its text)


@dataclass(frozen=True)
class BatchGenerator:
    """Generates with the slots of one session. Every text is the one that it would be alone."""

    session: BatchSession
    tokenizer: Tokenizer | None

    def generate(
        self, prompts: Sequence[list[int]], options: GenerationOptions, show: Show | None = None
    ) -> list[Generation]:
        """Continue all `prompts`, which are token ids; more than there are slots wait for one.

        Raises:
            OptionError: where the model was compiled for single sequences.
            ContextLengthError: for all prompts that are too long, before anything runs.
        """
        self._refuse_single()
        counts = self._counts(prompts, options)
        if options.stop:
            require_tokenizer(self.tokenizer)
        texts = [
            Continuation(prompt, count, options, self.tokenizer)
            for prompt, count in zip(prompts, counts, strict=True)
        ]
        _Run(self.session, texts, show).finish()
        return [one.result() for one in texts]

    def _refuse_single(self) -> None:
        if self.session.slots == 1:
            raise OptionError(
                "generate_many: this model was compiled for batches of 1 sequence: use generate, or compile "
                "it with a workload of more, such as Workload(batch=8)."
            )

    def _counts(self, prompts: Sequence[list[int]], options: GenerationOptions) -> list[int]:
        counts, problems = [], []
        for number, prompt in enumerate(prompts):
            try:
                counts.append(room_for(options, len(prompt), self.session.capacity))
            except ContextLengthError as error:
                problems.append(f"prompt {number}: {error}")
        if problems:
            raise ContextLengthError("\n  - ".join(["generate_many: not all prompts fit", *problems]))
        return counts


class _Run:
    """Texts that wait, and texts that have a slot."""

    def __init__(self, session: BatchSession, texts: Sequence[Continuation], show: Show | None) -> None:
        self._session, self._texts, self._show = session, texts, show
        self._waiting = deque(range(len(texts)))
        self._active: dict[int, int] = {}  # slot → number of the text

    def finish(self) -> None:
        """Until all are complete."""
        while self._waiting or self._active:
            self._fill()
            if self._active:
                self._step()

    def _fill(self) -> None:
        """Let texts that wait begin in slots that are free."""
        free = [slot for slot in range(self._session.slots) if slot not in self._active]
        while self._waiting and free:
            number = self._waiting.popleft()
            start = time.perf_counter()
            token = self._begin(free[0], self._texts[number])
            self._take(number, token, time.perf_counter() - start)
            if not self._texts[number].complete:
                self._active[free.pop(0)] = number

    def _begin(self, slot: int, text: Continuation) -> int:
        self._session.reset(slot)
        if text.needed is None:
            return text.choose(self._session.extend(slot, text.prompt))
        count = min(text.needed, self._session.vocabulary)
        return text.choose_among(*self._session.best(slot, text.prompt, count))

    def _step(self) -> None:
        """One token more for all that have a slot; those that are complete leave it."""
        start = time.perf_counter()
        chosen = self._choose({slot: self._texts[number] for slot, number in self._active.items()})
        seconds = time.perf_counter() - start
        for (slot, number), token in zip(list(self._active.items()), chosen, strict=True):
            self._take(number, token, seconds)
            if self._texts[number].complete:
                del self._active[slot]

    def _choose(self, texts: Mapping[int, Continuation]) -> list[int]:
        tokens = {slot: text.tokens[-1] for slot, text in texts.items()}
        needed = next(iter(texts.values())).needed  # all texts have the same options
        if needed is None:
            rows = self._session.extend_many(tokens)
            return [text.choose(logits) for text, logits in zip(texts.values(), rows, strict=True)]
        found = self._session.best_many(tokens, min(needed, self._session.vocabulary))
        return [text.choose_among(*one) for text, one in zip(texts.values(), found, strict=True)]

    def _take(self, number: int, token: int, seconds: float) -> None:
        text = self._texts[number]
        piece = text.take(token, seconds)
        if text.complete:
            piece += text.finish()
        if piece and self._show is not None:
            self._show(number, piece)
