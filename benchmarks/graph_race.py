"""Graphs: whether outputs agree, and the rounds in which contestants take turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from contestants import Contestant
from graph_cases import CALIBRATION
from graph_contestants import read_calls

Arrays = Mapping[str, np.ndarray]

EQUAL = 1e-3  # the largest difference, of the largest value: float32 sums in another order


def outputs(contestant: Contestant, folder: Path) -> list[Arrays]:
    """Of all calls; they travel as files."""
    folder.mkdir()
    count = contestant.ask("outputs", folder=str(folder))
    return [dict(np.load(folder / f"outputs-{number}.npz")) for number in range(count)]


def largest_error(found: Sequence[Arrays], wanted: Sequence[Arrays]) -> float:
    """The largest difference over all calls and outputs, of the largest value of the output."""
    pairs = [(one[name], other[name]) for one, other in zip(found, wanted, strict=True) for name in other]
    return max(
        float(np.abs(one - other).max() / max(float(np.abs(other).max()), 1e-30)) for one, other in pairs
    )


def agreement(found: Sequence[Arrays], wanted: Sequence[Arrays], measure: str) -> float:
    """Over all calls: the mean cosine, or how often the likeliest entry of the first output is the same."""
    return float(np.mean([MEASURES[measure](*pair) for pair in zip(found, wanted, strict=True)]))


def cosine(found: Arrays, wanted: Arrays) -> float:
    """Of all outputs of one call, each as one vector: the least."""
    return min(_cosine(found[name].ravel(), one.ravel()) for name, one in wanted.items())


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other / lengths) if lengths else float(np.array_equal(one, other))


def top1(found: Arrays, wanted: Arrays) -> float:
    """Share of the rows of the first output whose largest entry is at the same place."""
    name = next(iter(wanted))
    return float(np.mean(found[name].argmax(-1) == wanted[name].argmax(-1)))


MEASURES = {"cosine": cosine, "top-1": top1}


def check(
    contestants: Mapping[str, Contestant], folder: Path, measure: str, quality: float
) -> dict[str, dict[str, Any]]:
    """How near each is to the first; `passed` says whether it may be compared with it."""
    found = {name: outputs(one, folder / str(index)) for index, (name, one) in enumerate(contestants.items())}
    first, *others = found
    return {name: checked(found[name], found[first], measure, quality) for name in others}


def checked(
    found: Sequence[Arrays], wanted: Sequence[Arrays], measure: str, quality: float
) -> dict[str, Any]:
    """`equal` to float32's rounding, or at least close by the measure on calls that compilers did not see."""
    error = largest_error(found, wanted)
    unseen = slice(CALIBRATION if len(found) > CALIBRATION else 0, None)
    near = agreement(found[unseen], wanted[unseen], measure)
    equal = error <= EQUAL
    passed = equal or near >= 1 - quality
    return {"error": error, "measure": measure, "agreement": near, "equal": equal, "passed": passed}


def rounds(contestants: Mapping[str, Contestant], count: int, seconds: float) -> list[dict[str, float]]:
    """Seconds of a call by contestant; another one begins each round, and the first round is not kept."""
    names = list(contestants)
    kept = []
    for number in range(count + 1):
        first = number % len(names)
        order = names[first:] + names[:first]
        kept.append({name: contestants[name].ask("time_calls", seconds=seconds) for name in order})
    return kept[1:]


def shapes(calls: Path) -> dict[str, list[int]]:
    """Of the inputs that are timed."""
    return {name: list(one.shape) for name, one in read_calls(calls)[0].items()}
