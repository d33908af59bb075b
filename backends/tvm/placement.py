"""Where buffers lie in one stretch of memory, so that those alive at the same time share no byte.

Two buffers whose lifetimes overlap are neighbours in a graph. Buffers are placed one after another, each at
the lowest offset at which none of its neighbours lies (first fit); the order decides how well that goes, and
the best of some is taken. No placement can be smaller than what is alive at the busiest step, which the
result says, too. Finding the smallest is NP-hard (dynamic storage allocation; Garey & Johnson 1979, SR2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import networkx

from intaglio.backends.tvm.program import align


@dataclass(frozen=True)
class Lifetime:
    """A buffer of `bytes` bytes, in use from step `first` to step `last`, both included."""

    name: str
    bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Placement:
    """Aligned offsets by name."""

    offsets: Mapping[str, int]
    bytes: int  # from the first buffer's beginning to the last one's end
    least: int  # no placement takes fewer: what is alive at the busiest step


def place(lifetimes: Sequence[Lifetime]) -> Placement:
    """Offsets for buffers of different names; what is equal in size and life keeps its order."""
    neighbours = interference(lifetimes)
    least = busiest(lifetimes)
    best: Placement | None = None
    for order in _ORDERS:
        offsets = _first_fit(sorted(lifetimes, key=order), neighbours)
        size = max((offsets[one.name] + align(one.bytes) for one in lifetimes), default=0)
        if best is None or size < best.bytes:
            best = Placement(offsets, size, least)
        if size == least:
            break
    assert best is not None
    return best


def interference(lifetimes: Iterable[Lifetime]) -> networkx.Graph:
    """The graph of names in which those that are alive at the same time are neighbours."""
    graph = networkx.Graph()
    alive: list[Lifetime] = []
    for one in sorted(lifetimes, key=lambda one: one.first):
        alive = [other for other in alive if other.last >= one.first]
        graph.add_node(one.name)
        graph.add_edges_from((one.name, other.name) for other in alive)
        alive.append(one)
    return graph


def busiest(lifetimes: Iterable[Lifetime]) -> int:
    """The most bytes that are alive at one step, each buffer rounded up to the alignment."""
    changes = [
        change
        for one in lifetimes
        for change in ((one.first, align(one.bytes)), (one.last + 1, -align(one.bytes)))
    ]
    now = most = 0
    for _, change in sorted(changes):  # at a step, what ends comes before what begins
        now += change
        most = max(most, now)
    return most


_ORDERS: tuple[Callable[[Lifetime], tuple[int, ...]], ...] = (
    lambda one: (-one.bytes, one.first),
    lambda one: (-one.bytes * (one.last - one.first + 1), one.first),
    lambda one: (one.first, -one.bytes),
    lambda one: (one.first - one.last, -one.bytes, one.first),
)


def _first_fit(order: Iterable[Lifetime], neighbours: networkx.Graph) -> dict[str, int]:
    ends: dict[str, int] = {}
    offsets: dict[str, int] = {}
    for one in order:
        taken = sorted((offsets[name], ends[name]) for name in neighbours[one.name] if name in offsets)
        offset = 0
        for start, end in taken:
            if start - offset >= align(one.bytes):
                break
            offset = max(offset, end)
        offsets[one.name], ends[one.name] = offset, offset + align(one.bytes)
    return offsets
