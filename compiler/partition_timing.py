"""Whole calls of several ways to run one graph: whether they agree, and how long they take, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from intaglio.compiler.array_exchange import Array

Call = Mapping[str, Array]
Run = Callable[[Call], Mapping[str, Array]]

SLICE = 0.002  # seconds: short calls are repeated until so much time has gone by
ROUNDS = (5, 15)  # fewest and most
QUARTILE = 0.25
SMALLEST = (
    1e-3  # values below count as that: of a probability next to 0 hardly a digit is left after subtractions
)
LONG = 0.05  # seconds: calls from which on the caches' state at their beginning does not matter


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, for each of the calls: the lower quartile over the rounds, and every round's."""

    seconds: tuple[float, ...]
    rounds: tuple[tuple[float, ...], ...]  # call → round → seconds

    def relative_to(self, other: Timing) -> float:
        """How many times as long this takes: of lower quartiles, since whoever disturbs only ever slows down.

        The geometric mean over the calls.
        """
        ratios = [
            float(np.quantile(mine, QUARTILE) / np.quantile(theirs, QUARTILE))
            for mine, theirs in zip(self.rounds, other.rounds, strict=True)
        ]
        return float(np.exp(np.mean(np.log(ratios))))


def time_in_turns(runs: Sequence[Run], calls: Sequence[Call], budget: float) -> list[Timing]:
    """Time every run on every call, in turns, for about `budget` seconds, but at least `ROUNDS[0]` rounds."""
    repeats = [[_repeats(run, call) for call in calls] for run in runs]
    rounds: list[list[list[float]]] = [[[] for _ in calls] for _ in runs]
    start = time.perf_counter()
    for index in range(ROUNDS[1]):
        if index >= ROUNDS[0] and time.perf_counter() - start > budget:
            break
        for number, run in enumerate(runs):
            for place, call in enumerate(calls):
                rounds[number][place].append(_seconds(run, call, repeats[number][place]))
    return [
        Timing(
            tuple(float(np.quantile(one, QUARTILE)) for one in of_run),
            tuple(tuple(one) for one in of_run),
        )
        for of_run in rounds
    ]


def largest_error(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> float:
    """The largest difference over all outputs, relative to the output's largest value or `SMALLEST`.

    Integers and truth values count as 1 where one differs; infinite where one has a NaN alone.
    """
    return max((_error(found[name], one) for name, one in wanted.items()), default=0.0)


def _error(found: Array, wanted: Array) -> float:
    if found.shape != wanted.shape:
        return float("inf")
    if wanted.dtype.kind in "biu":
        return float(not np.array_equal(found, wanted))
    ours, theirs = (cast("NDArray[np.float64]", one.astype(np.float64)) for one in (found, wanted))
    if not np.array_equal(np.isfinite(ours), np.isfinite(theirs)):
        return float("inf")
    known = np.isfinite(theirs)
    if not known.any():
        return 0.0
    scale = max(float(np.abs(theirs[known]).max()), SMALLEST)
    return float(np.abs(ours - theirs, where=known, out=np.zeros_like(ours))[known].max()) / scale


def _repeats(run: Run, call: Call) -> int:
    run(call)
    return max(1, min(1000, round(SLICE / max(_seconds(run, call, 1), 1e-6))))


def _seconds(run: Run, call: Call, repeats: int) -> float:
    """Of one call, on average; the first of a turn finds the caches cold and counts only if it is long."""
    start = time.perf_counter()
    run(call)
    first = time.perf_counter() - start
    if first > LONG:
        return first
    start = time.perf_counter()
    for _ in range(repeats):
        run(call)
    return (time.perf_counter() - start) / repeats
