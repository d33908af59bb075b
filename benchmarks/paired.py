"""Medians, and ratios of what was measured in the same round, with 95 % intervals.

Rounds on a shared machine differ by more than the contestants do, but a slow minute falls on all contestants
of a round. So ratios are taken within each round; their logarithms get a t interval.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# The 97.5 % quantiles of Student's t for 1, 2, … 30 degrees of freedom; beyond, the normal distribution's.
STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
NORMAL = 1.960


@dataclass(frozen=True)
class Spread:
    """Median, least and most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Ratio:
    """A geometric mean with its 95 % interval; of a single round the interval is not known."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.2f} ×"
        return f"{self.value:.2f} × ({self.low:.2f} – {self.high:.2f})"


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Ours over theirs, round by round. Raises `ValueError` where the rounds differ in number."""
    return mean_ratio([mine / other for mine, other in zip(ours, theirs, strict=True)])


def mean_ratio(ratios: Sequence[float]) -> Ratio:
    """The geometric mean of `ratios`, which are positive."""
    logarithms = [math.log(one) for one in ratios]
    mean = statistics.fmean(logarithms)
    freedom = len(logarithms) - 1
    if freedom == 0:
        return Ratio(math.exp(mean), None, None)
    quantile = STUDENT[freedom - 1] if freedom <= len(STUDENT) else NORMAL
    half = quantile * statistics.stdev(logarithms) / math.sqrt(len(logarithms))
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def across(ratios: Sequence[Sequence[float]]) -> Ratio:
    """The geometric mean over models: `ratios` holds the rounds of each model, as many for all."""
    return mean_ratio([math.exp(statistics.fmean(map(math.log, one))) for one in zip(*ratios, strict=True)])


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
