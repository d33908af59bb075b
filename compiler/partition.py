"""The measured partition: of several ways to run a graph the fastest that computes the same is kept.

The first candidate is onnxruntime on the graph as traced: nothing slower is kept, and outputs are compared
with those that it gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from intaglio.compiler.errors import IntaglioError
from intaglio.compiler.partition_timing import Call, Run, Timing, largest_error, time_in_turns

TOLERANCE = 1e-3  # of the largest value of an output: float32 sums in another order, through a deep model
MARGIN = 0.02  # a candidate takes the place of the preferred one if it needs so much less time,
GAIN = 5e-6  # and so many seconds less: below that it is noise
SECONDS = 3.0  # of timing all candidates


@dataclass(frozen=True)
class Candidate:
    """A way to run the whole graph. `open` raises an error of ours where it cannot be."""

    name: str
    open: Callable[[], Run]
    tolerance: float = TOLERANCE


@dataclass(frozen=True)
class Measured:
    """What was found of one candidate."""

    name: str
    seconds: tuple[float, ...]  # of each call; none where it was not timed
    relative: float | None  # how many times as long as the first one it takes
    error: float | None  # see `largest_error`
    reason: str  # why it was kept or not


@dataclass(frozen=True)
class Partition:
    """The candidates and the name of the one that was kept."""

    kept: str
    candidates: tuple[Measured, ...]
    shapes: tuple[dict[str, list[int]], ...]  # of the inputs of each call
    threads: int

    def fastest_of(self, names: Sequence[str]) -> str:
        """Of the candidates `names` the one kept, or else the fastest; the last one if none was timed."""
        timed = [one for one in self.candidates if one.name in names and one.relative is not None]
        if self.kept in names or not timed:
            return self.kept if self.kept in names else names[-1]
        return min(timed, key=lambda one: one.relative or 0.0).name

    def to_data(self) -> dict[str, Any]:
        """As plain JSON data."""
        return asdict(self)


@dataclass
class _Opened:
    candidate: Candidate
    run: Run | None = None
    timing: Timing | None = None
    error: float | None = None
    problem: str = ""


def partition(
    candidates: Sequence[Candidate],
    calls: Sequence[Call],
    preferred: str,
    threads: int,
    budget: float = SECONDS,
) -> Partition:
    """Measure `candidates` on `calls` and keep the fastest: `preferred` where that makes no difference.

    It is also kept where nothing can be measured: there are no calls, or the first candidate refuses them.
    """
    shapes = tuple({name: list(one.shape) for name, one in call.items()} for call in calls)
    found = [_Opened(one) for one in candidates]
    if not calls:
        return _unmeasured(
            found, preferred, shapes, threads, "no inputs to measure with: give example_inputs"
        )
    wanted = _outputs(found[0], calls)
    if wanted is None:
        return _unmeasured(found, preferred, shapes, threads, f"not measured: {found[0].problem}")
    for one in found[1:]:
        _compare(one, calls, wanted)
    usable = [one for one in found if one.run is not None]
    timings = time_in_turns([one.run for one in usable if one.run is not None], calls, budget)
    for one, timing in zip(usable, timings, strict=True):
        one.timing = timing
    best = _fastest(usable, preferred)
    return Partition(
        best.candidate.name, tuple(_measured(one, found[0], best) for one in found), shapes, threads
    )


def _outputs(one: _Opened, calls: Sequence[Call]) -> list[Any] | None:
    """The outputs of all calls; `None`, and the problem, where the candidate cannot run."""
    try:
        one.run = one.candidate.open()
        return [dict(one.run(call)) for call in calls]
    except IntaglioError as error:
        one.run, one.problem = None, str(error).splitlines()[0]
        return None


def _compare(one: _Opened, calls: Sequence[Call], wanted: Sequence[Any]) -> None:
    found = _outputs(one, calls)
    if found is None:
        return
    one.error = max(largest_error(*pair) for pair in zip(found, wanted, strict=True))
    if one.error > one.candidate.tolerance:
        one.run = None
        one.problem = f"its outputs differ by {one.error:.1e}, more than {one.candidate.tolerance:.0e}"


def _fastest(usable: Sequence[_Opened], preferred: str) -> _Opened:
    best = next((one for one in usable if one.candidate.name == preferred), usable[0])
    for one in usable:
        assert one.timing is not None, "all usable ones are timed"
        assert best.timing is not None, "all usable ones are timed"
        gain = sum(best.timing.seconds) - sum(one.timing.seconds)
        if one.timing.relative_to(best.timing) < 1 - MARGIN and gain > GAIN:
            best = one
    return best


def _measured(one: _Opened, first: _Opened, best: _Opened) -> Measured:
    if one.timing is None or first.timing is None:
        return Measured(one.candidate.name, (), None, one.error, one.problem)
    relative = one.timing.relative_to(first.timing)
    reason = "kept: the fastest" if one is best else f"slower than {best.candidate.name}, or hardly faster"
    return Measured(one.candidate.name, one.timing.seconds, relative, one.error, reason)


def _unmeasured(
    found: Sequence[_Opened],
    kept: str,
    shapes: tuple[dict[str, list[int]], ...],
    threads: int,
    reason: str,
) -> Partition:
    names = [one.candidate.name for one in found]
    told = [
        Measured(name, (), None, None, f"{'kept' if name == kept else 'left'}: {reason}") for name in names
    ]
    return Partition(kept, tuple(told), shapes, threads)
