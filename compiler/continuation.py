"""One text being generated, whoever computes its logits: tokens, text, and when it is complete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from intaglio.compiler.errors import OptionError
from intaglio.compiler.sampling import Sampler, SamplingOptions
from intaglio.compiler.stop_strings import StopScanner
from intaglio.compiler.workload import is_count

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from intaglio.compiler.frontends.tokenizer import TextStream as Detokenizer
    from intaglio.compiler.frontends.traced import Tokenizer

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
    decode_seconds: float  # of all its steps, shared with others or not

    def __str__(self) -> str:
        return self.text

    @property
    def decode_tokens_per_second(self) -> float | None:
        """Of the tokens after the first, which belongs to the prefill; `None` where there are none."""
        if len(self.tokens) < 2 or not self.decode_seconds:
            return None
        return (len(self.tokens) - 1) / self.decode_seconds


class Continuation:
    """A prompt, and what has been generated of its continuation."""

    def __init__(
        self, prompt: Sequence[int], count: int, options: GenerationOptions, tokenizer: Tokenizer | None
    ) -> None:
        """`count` tokens are wanted, unless an end token or a stop string comes first."""
        self.prompt, self._count = list(prompt), count
        self.tokens: list[int] = []
        self._text, self._scanner = "", StopScanner(options.stop)
        self._sampler = Sampler(options.sampling)
        self._detokenizer = detokenizer_of(tokenizer)
        self._ends = tokenizer.end_tokens if tokenizer else frozenset()
        self._prefill_seconds = self._decode_seconds = 0.0

    @property
    def pending(self) -> list[int]:
        """The tokens that the cache does not hold yet."""
        return self.tokens[-1:] or self.prompt

    @property
    def ended(self) -> bool:
        """Whether the last token ends the text."""
        return bool(self.tokens) and self.tokens[-1] in self._ends

    @property
    def complete(self) -> bool:
        """Whether no more tokens are wanted."""
        return self.ended or self._scanner.stopped or len(self.tokens) == self._count

    @property
    def needed(self) -> int | None:
        """How many of the likeliest tokens decide the choice; `None`: all logits are wanted."""
        return self._sampler.needed

    def choose(self, logits: NDArray[np.float32]) -> int:
        """The next token for `logits` `[vocabulary]`. Raises `ModelError` for logits that are no numbers."""
        return self._sampler.choose(logits, (*self.prompt, *self.tokens))

    def choose_among(self, tokens: NDArray[np.int64], logits: NDArray[np.float32]) -> int:
        """One of the `needed` likeliest `tokens`, with their `logits`; raises as `choose`."""
        return self._sampler.choose_among(tokens, logits)

    def take(self, token: int, seconds: float) -> str:
        """Append `token`, which took `seconds`; the piece of text that is certain now."""
        if self.tokens:
            self._decode_seconds += seconds
        else:
            self._prefill_seconds += seconds
        self.tokens.append(token)
        known = self._detokenizer.push(token) if self._detokenizer and not self.ended else ""
        return self._keep(self._scanner.push(known))

    def finish(self) -> str:
        """The piece of text that was held back."""
        if self._detokenizer is None:
            return ""
        return self._keep(self._scanner.push(self._detokenizer.finish()) + self._scanner.finish())

    def result(self) -> Generation:
        """The finished generation."""
        reason: Reason = "stop" if self._scanner.stopped else "end" if self.ended else "length"
        seconds = self._prefill_seconds, self._decode_seconds
        return Generation(self._text, tuple(self.tokens), reason, len(self.prompt), *seconds)

    def _keep(self, piece: str) -> str:
        self._text += piece
        return piece


def detokenizer_of(tokenizer: Tokenizer | None) -> Detokenizer | None:
    """What turns tokens into text; `None` where the model has no usable tokenizer and runs on ids alone."""
    from intaglio.compiler.frontends.tokenizer import RefusedTokenizer
    from intaglio.compiler.frontends.tokenizer import TextStream as Detokenizer

    unusable = tokenizer is None or isinstance(tokenizer, RefusedTokenizer)
    return None if unusable else Detokenizer(cast("Tokenizer", tokenizer))
