"""When buffers of a stage table are in use: barriers, guards, foreign regions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from intaglio.backends.tvm.lifetimes import plan
from intaglio.backends.tvm.program import Buffer, Exchange, ForeignCall, Guard, Stage, StageTable

KILO = [Buffer(name, "workspace", 1024) for name in "abcd"]


def stage(*buffers, barrier=True, guard=None):
    return Stage(0, buffers, barrier, "site", None if guard is None else Guard(guard, 0))


def size(table, buffers=KILO):
    placed, _ = plan(buffers, [table])
    return max(one.offset + one.bytes for one in placed)


def test_a_chain_of_stages_needs_two_buffers():
    table = StageTable("decode", 1, (stage(0, 1), stage(1, 2), stage(2, 3)))
    assert size(table) == 2048
    placed, (planned,) = plan(KILO, [table])
    assert len(placed) == 2  # what lies in the same place is one buffer
    assert [one.buffers for one in planned.stages] == [(0, 1), (1, 0), (0, 1)]


def test_without_a_barrier_a_slower_worker_may_still_be_reading():
    table = StageTable("decode", 1, (stage(0, 1, barrier=False), stage(1, 2, barrier=False), stage(2, 3)))
    assert size(table) == 4096


def test_private_buffers_lie_worker_by_worker_and_need_the_barrier_too():
    private = [Buffer(one.name, "private", one.bytes) for one in KILO]
    for barrier, expected in ((True, 2048), (False, 4096)):
        stages = tuple(stage(i, i + 1, barrier=barrier) for i in range(3))
        assert size(StageTable("decode", 1, stages), private) == expected


def test_tables_share_one_workspace():
    tables = [StageTable("decode", 1, (stage(0, 1),)), StageTable("prefill", 8, (stage(2, 3),))]
    placed, _ = plan(KILO, tables)
    assert max(one.offset + one.bytes for one in placed) == 2048


def test_a_barrier_that_is_skipped_with_its_stage_releases_nothing_else():
    """Without the first barrier, buffers 0 and 1 are in use until the last stage."""
    skipped, last = stage(2, guard=0), stage(3)
    assert size(StageTable("decode", 1, (stage(0, 1, barrier=False), skipped, last))) == 3072
    assert size(StageTable("decode", 1, (stage(0, 1), skipped, last))) == 2048


def test_a_guarded_barrier_releases_what_stages_of_the_same_guard_used():
    first, second = stage(1, guard=0), stage(2, guard=0)
    assert size(StageTable("decode", 1, (stage(0), first, second, stage(3)))) == 2048


def test_a_guard_is_read_until_a_barrier_that_all_pass():
    """A slow worker may read it when a fast one has skipped the stage, and its barrier."""
    assert size(StageTable("decode", 1, (stage(0), stage(guard=0), stage(1)))) == 2048
    assert size(StageTable("decode", 1, (stage(0), stage(guard=0), stage(), stage(1)))) == 1024


def test_what_may_not_have_been_written_shares_with_its_like_only():
    """Buffer 1 is read although its writer may have been skipped: it must never hold another's bytes."""
    table = StageTable("decode", 1, (stage(0), stage(1, guard=0), stage(1, 2), stage(3)))
    placed, (planned,) = plan(KILO, [table])
    kept = placed[planned.stages[1].buffers[0]]
    others = {one for row in planned.stages for one in row.buffers} - {planned.stages[1].buffers[0]}
    assert all(placed[one].offset >= kept.offset + kept.bytes for one in others)


def test_a_foreign_region_comes_after_all_workers():
    rows = [Exchange("x", one, 16, 0, (16,), single=True) for one in range(4)]
    stages = (stage(0, barrier=False), stage(2, 3, barrier=False))
    call = ForeignCall(0, 1, (rows[0],), (rows[2],))
    assert size(StageTable("decode", 1, stages, (call,))) == 2048


def test_what_is_not_planned_keeps_its_place_and_what_nobody_uses_goes():
    buffers = [Buffer("w", "weights", 64, 128), Buffer("k", "state", 64, 64), *KILO]
    placed, _ = plan(buffers, [StageTable("decode", 1, (stage(0, 1, 2),))])
    assert [(one.name, one.offset) for one in placed] == [("w", 128), ("k", 64), ("a", 0)]


def barriers_between(table, one, other):
    """Whether a barrier is sure to lie between two uses `(step, guard)`, given that both happen."""
    (early, before), (late, after) = sorted((one, other), key=lambda use: use[0])
    if any(early < 2 * call.before < late or 2 * call.before in (early, late) for call in table.foreign):
        return early != late
    steps = [(2 * i + 1, one) for i, one in enumerate(table.stages)]
    return any(
        early <= step < late and one.barrier and one.guard in (None, before, after) for step, one in steps
    )


@pytest.mark.parametrize("seed", range(12))
def test_random_tables(seed):
    """No two buffers of which two uses may happen at once share a byte."""
    random = np.random.default_rng(seed)
    buffers = [Buffer(f"b{i}", "workspace", int(random.integers(1, 3000))) for i in range(30)]
    guards = [None, None, None, 0, 1]
    stages = tuple(
        stage(
            *map(int, random.integers(2, 30, 3)),
            barrier=bool(random.random() < 0.6),
            guard=guards[random.integers(5)],
        )
        for _ in range(40)
    )
    calls = tuple(
        ForeignCall(0, before, (Exchange("x", before % 30, 16, 0, (16,), True),), ())
        for before in (0, 11, 30)
    )
    table = StageTable("decode", 1, stages, calls)
    placed, (planned,) = plan(buffers, [table])
    uses = {}
    for step, (old, new) in enumerate(zip(stages, planned.stages, strict=True)):
        pairs = list(zip(old.buffers, new.buffers, strict=True))
        for before, after in pairs:
            uses.setdefault(before, (placed[after], []))[1].append((2 * step + 1, old.guard))
        if old.guard:
            guard = uses.setdefault(old.guard.buffer, (placed[new.guard.buffer], []))
            guard[1].append((2 * step + 1, None))
    for old, new in zip(calls, planned.foreign, strict=True):
        before, after = old.inputs[0].buffer, new.inputs[0].buffer
        uses.setdefault(before, (placed[after], []))[1].append((2 * old.before, None))
    for (one, first), (other, second) in itertools.combinations(uses.values(), 2):
        if any(not barriers_between(table, x, y) for x in first for y in second) or crossing(first, second):
            apart = one.offset + one.bytes <= other.offset or other.offset + other.bytes <= one.offset
            assert apart, (one, other)


def crossing(first, second):
    """Whether two buffers are alive at once by their first and last steps."""
    (low, high), (start, end) = (
        (min(s for s, _ in uses), max(s for s, _ in uses)) for uses in (first, second)
    )
    return low <= end and start <= high
