"""From logits to the next token: repetition penalty, temperature, top-k, top-p, and the choice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from intaglio.compiler.errors import ModelError, OptionError
from intaglio.kernels.choose.selection import likeliest


@dataclass(frozen=True)
class SamplingOptions:
    """How a token is chosen. Raises `OptionError` for bad values and for options that would do nothing.

    `repetition_penalty` divides the positive logits of tokens already seen and multiplies the negative ones
    (Keskar et al. 2019, CTRL). Then come `temperature`, `top_k` and `top_p`, in this order.
    """

    temperature: float = 0.0  # 0: always the likeliest token
    top_k: int | None = None  # only the k likeliest tokens
    top_p: float | None = None  # only the fewest likeliest tokens whose probabilities add up to p
    repetition_penalty: float = 1.0  # 1: none
    seed: int | None = None  # None: another choice every time

    def __post_init__(self) -> None:
        problems = [*self._bad_values(), *self._without_effect()]
        if problems:
            raise OptionError("\n  - ".join(["generate: these options cannot be used", *problems]))

    @property
    def kept(self) -> int | None:
        """Among how many of the likeliest tokens the choice is made; `None`: all."""
        return 1 if self.temperature == 0 else self.top_k

    def _bad_values(self) -> Iterable[str]:
        if not _is_number(self.temperature) or self.temperature < 0:
            yield f"temperature={self.temperature!r}: give 0 (greedy) or more"
        if self.top_k is not None and not (isinstance(self.top_k, int) and self.top_k >= 1):
            yield f"top_k={self.top_k!r}: give a whole number from 1"
        if self.top_p is not None and not (_is_number(self.top_p) and 0 < self.top_p <= 1):
            yield f"top_p={self.top_p!r}: give a number above 0, at most 1"
        if not _is_number(self.repetition_penalty) or self.repetition_penalty <= 0:
            yield f"repetition_penalty={self.repetition_penalty!r}: give a positive number, 1 for none"
        if self.seed is not None and not (isinstance(self.seed, int) and self.seed >= 0):
            yield f"seed={self.seed!r}: give a whole number from 0"

    def _without_effect(self) -> Iterable[str]:
        if self.temperature != 0:
            return
        for name in ("top_k", "top_p", "seed"):
            if getattr(self, name) is not None:
                yield f"{name} has no effect with temperature 0: leave it out, or give a temperature"


class Sampler:
    """Chooses tokens by `options`; with a seed, the same ones every time."""

    def __init__(self, options: SamplingOptions) -> None:
        self._options = options
        self._random = np.random.default_rng(options.seed)

    @property
    def needed(self) -> int | None:
        """How many of the likeliest tokens decide the choice; `None`: all logits are wanted."""
        return None if self._options.repetition_penalty != 1.0 else self._options.kept

    def choose(self, logits: NDArray[np.float32], seen: Iterable[int] = ()) -> int:
        """A token for `logits` `[vocabulary]`, where `seen` stand in the text so far.

        Raises `ModelError` for logits that are no numbers.
        """
        if self._options.repetition_penalty != 1.0:
            logits = penalised(logits, sorted(set(seen)), self._options.repetition_penalty)
        tokens = likeliest(logits, min(self._options.kept or len(logits), len(logits)))
        return self.choose_among(tokens, logits[tokens])

    def choose_among(self, tokens: NDArray[np.int64], logits: NDArray[np.float32]) -> int:
        """One of the likeliest `tokens`, likeliest first, with their `logits`; raises as `choose`."""
        if not np.isfinite(logits[0]):
            raise ModelError(
                f"generate: the largest logit is {logits[0]}: the model or its weights are broken."
            )
        if self._options.temperature == 0:
            return int(tokens[0])
        probabilities = distribution(logits, self._options)
        bounds = probabilities.cumsum()
        # Scaled by the last bound, so that rounding never leads past the end.
        return int(tokens[bounds.searchsorted(self._random.random() * bounds[-1], side="right")])


def penalised(logits: NDArray[np.float32], seen: list[int], penalty: float) -> NDArray[np.float32]:
    """`logits` with those of `seen` made less likely (for a penalty above 1)."""
    changed = logits.copy()
    chosen = logits[seen]
    changed[seen] = np.where(chosen > 0, chosen / penalty, chosen * penalty)
    return changed


def distribution(logits: NDArray[np.float32], options: SamplingOptions) -> NDArray[np.float64]:
    """Probabilities of the tokens that may be chosen, where `logits` are of the likeliest ones, in order.

    `options.temperature` is above 0.
    """
    scaled = logits[: options.top_k].astype(np.float64)
    weights = np.exp((scaled - scaled[0]) / options.temperature)
    probabilities: NDArray[np.float64] = weights / weights.sum()
    if options.top_p is None:
        return probabilities
    kept = int((probabilities.cumsum() - probabilities < options.top_p).sum())
    best: NDArray[np.float64] = probabilities[:kept] / probabilities[:kept].sum()
    return best


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
