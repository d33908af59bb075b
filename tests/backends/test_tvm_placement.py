"""Placing buffers: no two that live together overlap, and the size is near what must be."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from intaglio.backends.tvm.placement import Lifetime, busiest, interference, place


def overlaps(placement, lifetimes):
    """Pairs that are alive together and share a byte."""
    for one, other in itertools.combinations(lifetimes, 2):
        together = one.first <= other.last and other.first <= one.last
        first, second = placement.offsets[one.name], placement.offsets[other.name]
        if together and first < second + other.bytes and second < first + one.bytes:
            yield one.name, other.name


def test_nothing_takes_nothing():
    placement = place([])
    assert (dict(placement.offsets), placement.bytes, placement.least) == ({}, 0, 0)


def test_a_chain_needs_two_buffers():
    """Each step reads what the last one wrote."""
    chain = [Lifetime(f"x{step}", 1000, step, step + 1) for step in range(9)]
    placement = place(chain)
    assert placement.bytes == placement.least == 2048
    assert not list(overlaps(placement, chain))


def test_lifetimes_that_touch_overlap():
    together = [Lifetime("a", 64, 0, 3), Lifetime("b", 64, 3, 5)]
    assert place(together).bytes == 128
    assert place([together[0], Lifetime("b", 64, 4, 5)]).bytes == 64
    assert interference(together).has_edge("a", "b")


def test_a_small_buffer_fits_between_large_ones():
    """The hole that a dead buffer leaves is used."""
    lifetimes = [
        Lifetime("large", 4096, 0, 9),
        Lifetime("early", 2048, 0, 4),
        Lifetime("half", 1024, 5, 9),
        Lifetime("other half", 1024, 5, 9),
    ]
    placement = place(lifetimes)
    assert placement.bytes == placement.least == 6144


def test_busiest_counts_whole_lines():
    assert busiest([Lifetime("a", 1, 0, 0), Lifetime("b", 65, 0, 1), Lifetime("c", 64, 1, 1)]) == 192


@pytest.mark.parametrize("seed", range(8))
def test_random_lifetimes(seed):
    random = np.random.default_rng(seed)
    first = random.integers(0, 60, 120)
    lifetimes = [
        Lifetime(f"b{i}", int(size), int(start), int(start + length))
        for i, (size, start, length) in enumerate(
            zip(random.integers(1, 9000, 120), first, random.integers(0, 12, 120), strict=True)
        )
    ]
    placement = place(lifetimes)
    assert not list(overlaps(placement, lifetimes))
    assert all(offset % 64 == 0 for offset in placement.offsets.values())
    assert placement.least <= placement.bytes <= 1.25 * placement.least
    assert placement.bytes == max(placement.offsets[one.name] + -(-one.bytes // 64) * 64 for one in lifetimes)
