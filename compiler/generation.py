"""Generating text: a prompt, a session that extends it, and the loop between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from intaglio.compiler.errors import ContextLengthError, OptionError
from intaglio.compiler.sampling import Sampler, SamplingOptions
from intaglio.compiler.session import DecoderSession
from intaglio.compiler.stop_strings import StopScanner
from intaglio.compiler.workload import is_count

if TYPE_CHECKING:
    from intaglio.compiler.frontends.tokenizer import TextStream as Detokenizer
    from intaglio.compiler.frontends.traced import Tokenizer

DEFAULT_NEW_TOKENS = 128

Prompt = str | Sequence[Mapping[str, str]] | Sequence[int]
Reason = Literal["end", "stop", "length"]


@dataclass(frozen=True)
class GenerationOptions:
    """How to generate, and when to stop; raises `OptionError` for bad values.

    `max_new_tokens` left out means 128, or what still fits into the context.
    """

    max_new_tokens: int | None = None
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    stop: tuple[str, ...] = ()  # strings that end the text; they are not part of it

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None and not is_count(self.max_new_tokens):
            raise OptionError(
                f"generate: max_new_tokens={self.max_new_tokens!r}: give a whole number from 1."
            )
        if not all(isinstance(one, str) and one for one in self.stop):
            raise OptionError(
                f"generate: stop={self.stop!r}: give a string, or a tuple of strings, none empty."
            )


@dataclass(frozen=True)
class Generation:
    """A generated text with how it came about."""

    text: str
    tokens: tuple[int, ...]  # generated ones, with the end token if it came
    reason: Reason  # an end token, a stop string, or the length
    prompt_tokens: int
    prefill_seconds: float
    decode_seconds: float

    def __str__(self) -> str:
        return self.text

    @property
    def decode_tokens_per_second(self) -> float | None:
        """Of the tokens after the first, which belongs to the prefill; `None` where there are none."""
        if len(self.tokens) < 2 or not self.decode_seconds:
            return None
        return (len(self.tokens) - 1) / self.decode_seconds


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
        text, scanner = "", StopScanner(options.stop)
        detokenizer = detokenizer_of(self.tokenizer)
        run = _Run(self, prompt, options.sampling, count)
        for token in run:
            piece = scanner.push(detokenizer.push(token) if detokenizer and not run.ended else "")
            text += piece
            if piece:
                yield piece
            if scanner.stopped:
                break
        rest = scanner.push(detokenizer.finish()) + scanner.finish() if detokenizer else ""
        if rest:
            yield rest
        stream.finish(run.result(text + rest, stopped=scanner.stopped))


def detokenizer_of(tokenizer: Tokenizer | None) -> Detokenizer | None:
    """What turns tokens into text; `None` where the model has no usable tokenizer and runs on ids alone."""
    from intaglio.compiler.frontends.tokenizer import RefusedTokenizer
    from intaglio.compiler.frontends.tokenizer import TextStream as Detokenizer

    unusable = tokenizer is None or isinstance(tokenizer, RefusedTokenizer)
    return None if unusable else Detokenizer(cast("Tokenizer", tokenizer))


class _Run(Iterator[int]):
    """The tokens of one generation, with their times."""

    def __init__(
        self, generator: Generator, prompt: list[int], sampling: SamplingOptions, count: int
    ) -> None:
        self._generator, self._prompt, self._count = generator, prompt, count
        self._sampler = Sampler(sampling)
        self._tokens: list[int] = []
        self._seconds = [0.0, 0.0]  # prefill, decode
        tokenizer = generator.tokenizer
        self._ends = tokenizer.end_tokens if tokenizer else frozenset()

    @property
    def ended(self) -> bool:
        """Whether the last token ends the text."""
        return bool(self._tokens) and self._tokens[-1] in self._ends

    def __next__(self) -> int:
        if self.ended or len(self._tokens) == self._count:
            raise StopIteration
        if not self._generator.is_current():
            raise OptionError(
                "stream: another call has used this model since: finish one stream before the next."
            )
        start = time.perf_counter()
        token = self._step()
        self._seconds[bool(self._tokens)] += time.perf_counter() - start
        self._tokens.append(token)
        return token

    def _step(self) -> int:
        session = self._generator.session
        if not self._tokens:
            session.reset()
        new = self._tokens[-1:] or self._prompt
        if self._sampler.needed is None:
            return self._sampler.choose(session.extend(new), (*self._prompt, *self._tokens))
        count = min(self._sampler.needed, session.vocabulary)
        return self._sampler.choose_among(*session.best(new, count))

    def result(self, text: str, *, stopped: bool) -> Generation:
        """The finished generation."""
        reason: Reason = "stop" if stopped else "end" if self.ended else "length"
        prefill, decode = self._seconds
        return Generation(text, tuple(self._tokens), reason, len(self._prompt), prefill, decode)
