"""What generation, evaluation and benchmarks ask of a running decoder, whatever runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class DecoderSession(Protocol):
    """One sequence being extended over a static KV cache."""

    @property
    def vocabulary(self) -> int:
        """Number of logits."""

    @property
    def capacity(self) -> int:
        """Most tokens the cache holds."""

    @property
    def position(self) -> int:
        """Tokens in the cache now."""

    def reset(self, position: int = 0) -> None:
        """Forget all tokens from `position` on."""

    def extend(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append `tokens`; float32 logits `[vocabulary]` after the last one. Raises `ContextLengthError`."""

    def best(self, tokens: Sequence[int], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Append `tokens`; the `count` likeliest next ones, likeliest first, with their logits.

        Of equals, the lowest id comes first; what is no number comes first of all. Raises
        `ContextLengthError`.
        """

    def score(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append `tokens`; float32 logits `[len(tokens), vocabulary]` after each.

        Raises `ContextLengthError`.
        """
