"""The search for the fastest way to run a graph: whole candidates first, then kernels given back by kind.

Greedy: a native program that does not clearly win is built again without the kernels of one kind after the
other; what is faster without them stays without, while there is time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from intaglio.compiler.native_candidates import NATIVE, NativeCandidates
from intaglio.compiler.partition import Candidate, Measured, Partition, partition
from intaglio.compiler.partition_timing import Call

CLEAR = 0.8  # of the first candidate's time: below, nothing is given back
SECONDS = 20.0  # for building and timing variants; one that has begun is finished
FEWEST = 2  # nodes of a kind, for it to be tried
SHORT = 2e-3  # seconds of a call, below which handing over costs more than any kernel could


def search(
    whole: Sequence[Candidate], native: NativeCandidates, calls: Sequence[Call], preferred: str, threads: int
) -> Partition:
    """The partition that was kept, with everything that was measured on the way."""
    start = time.perf_counter()
    found = partition([*whole, *native.candidates()], calls, preferred, threads)
    best = _measured(found, NATIVE)
    without: frozenset[str] = frozenset()
    for kind in native.kinds(FEWEST) if best is not None and best.relative is not None else ():
        assert best is not None, "asked before"
        late = time.perf_counter() - start > SECONDS
        if late or (best.relative or 0.0) < CLEAR or max(best.seconds) < SHORT:
            break
        variant = native.variant(without | {kind})
        # In turns with the first candidate, so that figures of different moments can be compared.
        again = partition([whole[0], variant], calls, whole[0].name, threads)
        tried = _measured(again, variant.name)
        if tried is None:
            continue
        faster = tried.relative is not None and tried.relative < (best.relative or 0.0)
        if faster:
            best, without = tried, without | {kind}
        found = replace(found, candidates=(*found.candidates, tried))
    return _decided(found, best)


def _measured(found: Partition, name: str) -> Measured | None:
    return next((one for one in found.candidates if one.name == name), None)


def _decided(found: Partition, best: Measured | None) -> Partition:
    """`found` with the best native variant in the place of what was kept, if it is faster."""
    kept = _measured(found, found.kept)
    if best is None or best.relative is None or kept is None or kept.relative is None or best is kept:
        return found
    if best.relative >= kept.relative or best.name == found.kept:
        return found
    told = tuple(
        replace(one, reason=f"slower than {best.name}") if one is kept else one for one in found.candidates
    )
    told = tuple(replace(one, reason="kept: the fastest") if one is best else one for one in told)
    return replace(found, kept=best.name, candidates=told)
