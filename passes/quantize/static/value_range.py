"""The range of an activation, and the 8-bit grid that covers it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STEPS = 255
SMALLEST = 1e-30  # of a scale: all values zero


@dataclass(frozen=True)
class ValueRange:
    """The numbers from `low` to `high`; the grid is `(code - zero point) · scale` with codes 0 to 255."""

    low: float
    high: float

    @property
    def scale(self) -> np.float32:
        """The step of the grid, which always holds 0 exactly: padding is made of zeros."""
        return np.float32(max((max(self.high, 0.0) - min(self.low, 0.0)) / STEPS, SMALLEST))

    @property
    def zero_point(self) -> np.uint8:
        """The code of 0."""
        return np.uint8(min(STEPS, max(0, round(-min(self.low, 0.0) / float(self.scale)))))

    @property
    def is_finite(self) -> bool:
        """Whether both ends are numbers that float32 holds, in order."""
        with np.errstate(over="ignore"):
            ends = np.array([self.low, self.high]).astype(np.float32)
        return bool(np.isfinite(ends).all() and ends[0] <= ends[1])
