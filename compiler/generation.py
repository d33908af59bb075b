"""Generating text: a prompt, a session that extends it, and the loop between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from intaglio.compiler.continuation import Continuation, Generation, GenerationOptions
from intaglio.compiler.errors import ContextLengthError, OptionError
from intaglio.compiler.session import DecoderSession

if TYPE_CHECKING:
    from intaglio.compiler.frontends.traced import Tokenizer

DEFAULT_NEW_TOKENS = 128

Prompt = str | Sequence[Mapping[str, str]] | Sequence[int]


def prompt_tokens(prompt: Prompt, tokenizer: Tokenizer | None, vocabulary: int) -> list[int]:
    """Token ids of `prompt`: text, chat messages, or ids already. Raises `OptionError` for anything else."""
    if isinstance(prompt, str):
        return _checked(require_tokenizer(tokenizer).encode(prompt), vocabulary)
    items = list(prompt)
    if items and all(isinstance(one, Mapping) for one in items):
        messages = [dict(cast("Mapping[str, str]", one)) for one in items]
        chosen = require_tokenizer(tokenizer)
        return _checked(chosen.encode(chosen.chat(messages)), vocabulary)
    return _checked(items, vocabulary)


def require_tokenizer(tokenizer: Tokenizer | None) -> Tokenizer:
    """`tokenizer`, or `OptionError` where the model brought none."""
    if tokenizer is None:
        raise OptionError("generate: the model came without a tokenizer: give token ids instead of text.")
    return tokenizer


def _checked(tokens: Sequence[object], vocabulary: int) -> list[int]:
    if not tokens:
        raise OptionError("generate: the prompt is empty: give at least one token.")
    wrong = [one for one in tokens if not _is_token(one, vocabulary)]
    if wrong:
        raise OptionError(
            f"generate: {wrong[:5]} are no token ids: give whole numbers from 0 to {vocabulary - 1}."
        )
    return [int(cast("int", one)) for one in tokens]


def _is_token(value: object, vocabulary: int) -> bool:
    # numpy integers are welcome, booleans are a mistake.
    return (
        hasattr(value, "__index__")
        and not isinstance(value, bool)
        and 0 <= int(cast("int", value)) < vocabulary
    )


def room_for(options: GenerationOptions, prompt: int, capacity: int) -> int:
    """How many tokens to generate after `prompt` tokens. Raises `ContextLengthError`."""
    wanted = options.max_new_tokens
    if prompt + (wanted or 1) > capacity:
        raise ContextLengthError(
            f"generate: {prompt} prompt tokens and {wanted or 'at least 1'} new ones exceed the context of "
            f"{capacity}: shorten the prompt, lower max_new_tokens, or compile with a larger context."
        )
    return wanted or min(DEFAULT_NEW_TOKENS, capacity - prompt)


class TextStream(Iterator[str]):
    """Pieces of text as they become certain; `result` holds all of it once they are used up."""

    def __init__(self, pieces: Callable[[TextStream], Iterator[str]]) -> None:
        self._pieces = pieces(self)
        self._result: Generation | None = None

    def __next__(self) -> str:
        return next(self._pieces)

    def finish(self, result: Generation) -> None:
        """Called by the generating loop at its end."""
        self._result = result

    @property
    def result(self) -> Generation:
        """The whole generation; raises `OptionError` while pieces are left."""
        if self._result is None:
            raise OptionError(
                "stream: the text is not complete: use up the iterator before asking for `result`."
            )
        return self._result


@dataclass(frozen=True)
class Generator:
    """Generates with one session; `is_current` tells whether nobody else has begun to use it."""

    session: DecoderSession
    tokenizer: Tokenizer | None
    is_current: Callable[[], bool] = lambda: True

    def stream(self, prompt: list[int], options: GenerationOptions) -> TextStream:
        """Pieces of text; nothing runs before the first is asked for, but bad options are refused at once."""
        count = room_for(options, len(prompt), self.session.capacity)
        if options.stop:
            require_tokenizer(self.tokenizer)
        return TextStream(lambda stream: self._pieces(stream, prompt, options, count))

    def _pieces(
        self, stream: TextStream, prompt: list[int], options: GenerationOptions, count: int
    ) -> Iterator[str]:
        text = Continuation(prompt, count, options, self.tokenizer)
        while not text.complete:
            if not self.is_current():
                raise OptionError(
                    "stream: another call has used this model since: finish one stream before the next."
                )
            if piece := self._extend(text):
                yield piece
        if rest := text.finish():
            yield rest
        stream.finish(text.result())

    def _extend(self, text: Continuation) -> str:
        """One token more."""
        start = time.perf_counter()
        if not text.tokens:
            self.session.reset()
        if text.needed is None:
            token = text.choose(self.session.extend(text.pending))
        else:
            count = min(text.needed, self.session.vocabulary)
            token = text.choose_among(*self.session.best(text.pending, count))
        return text.take(token, time.perf_counter() - start)
