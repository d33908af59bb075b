"""How close a rounded graph stays to its original: cosine or top-1 of each output, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from intaglio.passes.result import Certificate

Measure = Literal["cosine", "top-1"]
Outputs = Mapping[str, NDArray[Any]]
TOLERANCE = 0.005  # how much of the agreement may be lost
SMALL = 8  # elements; a cosine of fewer says little, so that those of all inputs are taken together
RULE_OF_THREE = 3.0  # no miss in n: the rate is below 3 / n with 95 % confidence
SUMS_TO_ONE = 1e-3
# 97.5 % points of Student's t for 1, 2, … degrees of freedom.
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)


@dataclass(frozen=True)
class OutputQuality:
    """The agreement of one output, 1 being perfect, and its 95 % interval."""

    name: str
    measure: Measure
    mean: float
    low: float
    high: float
    inputs: int

    def __str__(self) -> str:
        return f"{self.name}: {self.measure} {self.mean:.4f} ({self.low:.4f} to {self.high:.4f})"


@dataclass(frozen=True)
class GraphQuality:
    """All outputs of a graph; it passes where every interval lies within the tolerance of 1."""

    outputs: tuple[OutputQuality, ...]
    tolerance: float = TOLERANCE

    @property
    def loss(self) -> float:
        """What the worst output loses, at the lower end of its interval."""
        return max((1 - one.low for one in self.outputs), default=0.0)

    @property
    def mean_loss(self) -> float:
        """What the outputs lose in the mean, those that lose nothing included."""
        return sum(1 - one.mean for one in self.outputs) / max(1, len(self.outputs))

    @property
    def passes(self) -> bool:
        """Whether the loss is within the tolerance."""
        return self.loss <= self.tolerance

    def __str__(self) -> str:
        return "; ".join(map(str, self.outputs))

    def certificates(self) -> tuple[Certificate, ...]:
        """One for each output: error is what the lower end of the interval loses."""
        return tuple(
            Certificate(
                f"{one.measure} of {one.name}, lost at the lower end of a 95 % interval",
                f"{one.inputs} held-out inputs, mean {one.mean:.5f}",
                max(0.0, 1 - one.low),
                self.tolerance,
            )
            for one in self.outputs
        )

    def to_data(self) -> dict[str, Any]:
        """As plain JSON data."""
        return asdict(self)


def judge(wanted: Sequence[Outputs], found: Sequence[Outputs], tolerance: float = TOLERANCE) -> GraphQuality:
    """Compare the outputs of several calls.

    Rows that are distributions (no number below 0, sum 1) are compared by their largest number, if there are
    enough rows for a narrow interval; integers by equality; everything else by its cosine.
    """
    names = list(wanted[0]) if wanted else []
    return GraphQuality(
        tuple(
            _output(name, [one[name] for one in wanted], [one[name] for one in found], tolerance)
            for name in names
        ),
        tolerance,
    )


def _output(
    name: str, wanted: Sequence[NDArray[Any]], found: Sequence[NDArray[Any]], tolerance: float
) -> OutputQuality:
    if wanted[0].dtype.kind in "iub":
        return _agreement(name, [one == other for one, other in zip(wanted, found, strict=True)])
    rows = sum(one.size // max(1, one.shape[-1]) for one in wanted if one.ndim)
    if rows * tolerance > RULE_OF_THREE and all(map(_is_distribution, wanted)):
        hits = [one.argmax(-1) == other.argmax(-1) for one, other in zip(wanted, found, strict=True)]
        return _agreement(name, hits)
    first, second = ([one.reshape(-1).astype(np.float64) for one in side] for side in (wanted, found))
    if wanted[0].size < SMALL:
        return _together(name, first, second)
    cosines = [cosine(one, other) for one, other in zip(first, second, strict=True)]
    return OutputQuality(name, "cosine", *interval(cosines), len(cosines))


def _is_distribution(array: NDArray[Any]) -> bool:
    if array.ndim == 0 or array.shape[-1] < 2 or array.min() < 0:
        return False
    return bool(np.abs(array.sum(-1, dtype=np.float64) - 1).max() < SUMS_TO_ONE)


def _agreement(name: str, hits: Sequence[NDArray[np.bool_]]) -> OutputQuality:
    rates, rows = [float(one.mean()) for one in hits], sum(one.size for one in hits)
    mean, low, high = interval(rates)
    return OutputQuality(name, "top-1", mean, min(low, 1 - RULE_OF_THREE / max(1, rows)), high, len(hits))


def cosine(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Of the angle between two vectors; 1 where both are zero, 0 where one is, or a number is not finite."""
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return float(np.array_equal(first, second, equal_nan=True))
    norms = float(np.linalg.norm(first) * np.linalg.norm(second))
    if norms == 0:
        return float(not first.any() and not second.any())
    return min(1.0, float(first @ second) / norms)


def interval(numbers: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval (Student's t), cut off at 1; of a single number nothing is known below."""
    count, mean = len(numbers), float(np.mean(numbers))
    if count < 2:
        return mean, -1.0, 1.0
    freedom = count - 1
    factor = STUDENT[freedom - 1] if freedom <= len(STUDENT) else 1.96 + 2.5 / freedom
    half = factor * float(np.std(numbers, ddof=1)) / math.sqrt(count)
    return mean, mean - half, min(1.0, mean + half)


def _together(
    name: str, wanted: Sequence[NDArray[np.float64]], found: Sequence[NDArray[np.float64]]
) -> OutputQuality:
    """One cosine over all inputs; its interval by leaving out one at a time (jackknife)."""
    count = len(wanted)
    whole = cosine(np.concatenate(wanted), np.concatenate(found))
    if count < 3:
        return OutputQuality(name, "cosine", whole, -1.0, 1.0, count)
    kept = [[index for index in range(count) if index != left] for left in range(count)]
    parts = [
        cosine(np.concatenate([wanted[one] for one in some]), np.concatenate([found[one] for one in some]))
        for some in kept
    ]
    pseudo = [count * whole - (count - 1) * one for one in parts]
    _, low, high = interval(pseudo)
    return OutputQuality(name, "cosine", whole, min(low, whole), high, count)
