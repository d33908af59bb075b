"""A histogram of numbers that arrive piece by piece, whatever their range turns out to be."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BINS = 2048  # on each side of zero


def _empty() -> NDArray[np.int64]:
    return np.zeros(2 * BINS, np.int64)


@dataclass
class Histogram:
    """Counts in `2 · BINS` bins of equal width from `-limit` to `limit`, which doubles when it is exceeded.

    Doubling joins neighbours, so that counts stay exact and only the resolution halves.
    `low`, `high` are the exact ends; they are infinite, or NaN, where a number was.
    """

    low: float = math.inf
    high: float = -math.inf
    limit: float = 0.0
    counts: NDArray[np.int64] = field(default_factory=_empty)

    def add(self, numbers: NDArray[np.floating]) -> None:
        """Count `numbers`; those that are not finite show in `low` and `high` alone."""
        if not numbers.size:
            return
        low, high = float(numbers.min()), float(numbers.max())
        if not math.isfinite(low) or not math.isfinite(high):
            self.low = self.high = math.nan
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        largest = max(-low, high)
        if largest == 0:
            self.counts[BINS] += numbers.size
            return
        self._widen(largest)
        self.counts += np.histogram(numbers, 2 * BINS, (-self.limit, self.limit))[0]

    @property
    def is_known(self) -> bool:
        """Whether there were numbers, all of them finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def centres(self) -> NDArray[np.float64]:
        """The number in the middle of each bin."""
        width = self.limit / BINS
        centres: NDArray[np.float64] = (np.arange(2 * BINS, dtype=np.float64) - BINS + 0.5) * width
        return centres

    def _widen(self, largest: float) -> None:
        if self.limit == 0:
            self.limit = largest
        while self.limit < largest:
            halves = self.counts.reshape(BINS, 2).sum(1)
            self.counts = np.pad(halves, BINS // 2)
            self.limit *= 2
