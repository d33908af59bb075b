"""The contestants' figures beside each other: quality against the original, and the first difference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from intaglio.compiler.demo.measure import Figures
from intaglio.compiler.evaluate import Evaluation, score_window, summarise

TYPICAL = 0.95  # quantile of the logits' errors that counts as usual


@dataclass(frozen=True)
class Agreement:
    """Of a greedy continuation with the original's."""

    equal_tokens: int
    tokens: int
    explanation: str


def quality(windows: Sequence[Sequence[int]], ours: Path, original: Path) -> Evaluation:
    """From two files of logits `[windows, length, vocabulary]`."""
    here, there = np.load(ours, mmap_mode="r"), np.load(original, mmap_mode="r")
    return summarise([score_window(one, here[n], there[n]) for n, one in enumerate(windows)])


def gap_error(ours: Path, original: Path) -> float:
    """By how much the original's lead of its likeliest token over its second is changed (95 % quantile)."""
    here, there = np.load(ours, mmap_mode="r"), np.load(original, mmap_mode="r")
    changes = []
    for mine, theirs in zip(here, there, strict=True):
        pair = np.argpartition(theirs, -2, axis=-1)[:, -2:]
        leads = [np.diff(np.take_along_axis(one, pair, -1), axis=-1)[:, 0] for one in (mine, theirs)]
        changes.append(np.abs(leads[0] - leads[1]))
    return float(np.quantile(np.concatenate(changes), TYPICAL))


def agreement(
    ours: Figures, original: Figures, usual: float, decode: Callable[[Sequence[int]], str]
) -> Agreement:
    """How far the continuations are equal, and why they part: a near-tie is a lead below `usual`."""
    pairs = list(zip(ours.continuation, original.continuation, strict=True))
    first = next((place for place, (mine, theirs) in enumerate(pairs) if mine != theirs), len(pairs))
    if first == len(pairs):
        return Agreement(first, len(pairs), "the same tokens throughout")
    mine, theirs = (decode([one]) for one in pairs[first])
    gap = original.gaps[first]
    verdict = "a near-tie" if gap <= usual else "more than rounding explains"
    explanation = (
        f"token {first + 1} is {mine!r}, not {theirs!r}: there the original's first choice leads its second "
        f"by {gap:.3f}, and rounding usually changes such a lead by up to {usual:.3f}: {verdict}"
    )
    return Agreement(first, len(pairs), explanation)


def rows(
    figures: Mapping[str, Figures], qualities: Mapping[str, Evaluation]
) -> list[tuple[str, str, str, str, str, str]]:
    """A line of the table for each contestant; the original has no distance to itself."""
    return [_row(name, one, qualities.get(name)) for name, one in figures.items()]


def _row(name: str, figures: Figures, quality: Evaluation | None) -> tuple[str, str, str, str, str, str]:
    return (
        name,
        f"{figures.prefill_tokens_per_second:.0f}",
        f"{figures.decode_tokens_per_second:.0f}",
        f"{figures.memory_bytes / 1e6:.0f}",
        "the original" if quality is None else f"{quality.kl:.5f}",
        "" if quality is None else f"{quality.top1_agreement:.1%}",
    )
