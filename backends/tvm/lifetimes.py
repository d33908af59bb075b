"""From stage tables to a memory plan: when each buffer is in use, and where it therefore lies.

Tables run one at a time, so they share one workspace, as if their steps followed each other. Within a table,
workers run apart until a barrier: what a stage has used is in use until the next barrier after it, since a
slower worker may still be there. A stage with a guard is skipped with its barrier: that barrier ends what
stages of the same guard have used, but nothing else, not even the guard, which is read in any case. Before a
foreign region everyone has finished.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from intaglio.backends.tvm.placement import Lifetime, place
from intaglio.backends.tvm.program import Buffer, ForeignCall, Guard, Stage, StageTable

PLANNED = ("workspace", "private")  # spaces whose contents nobody wants after a call


@dataclass(frozen=True)
class Use:
    """A buffer is read or written at step `step`, and by slower workers until step `last`."""

    buffer: int
    step: int
    last: int
    guard: Guard | None


def plan(
    buffers: Sequence[Buffer], tables: Sequence[StageTable]
) -> tuple[tuple[Buffer, ...], tuple[StageTable, ...]]:
    """Buffers with their offsets, those that came to lie in the same place made one; tables to match."""
    uses: dict[int, list[Use]] = defaultdict(list)
    base = 0
    for table in tables:
        for use in uses_of(table, base):
            uses[use.buffer].append(use)
        base += 2 * len(table.stages) + 2
    offsets = {index: one.offset for index, one in enumerate(buffers) if one.space not in PLANNED}
    for space in PLANNED:
        offsets |= _planned({index: buffers[index] for index in uses if buffers[index].space == space}, uses)
    return _renumbered(buffers, offsets, tables)


def uses_of(table: StageTable, base: int = 0) -> Iterator[Use]:
    """All uses of buffers in `table`: its stages are the odd steps from `base` on, foreign calls even."""
    for step, stage in enumerate(table.stages):
        at = base + 2 * step + 1
        for buffer in stage.buffers:
            yield Use(buffer, at, base + _released(table, step, stage.guard), stage.guard)
        if stage.guard is not None:
            yield Use(stage.guard.buffer, at, base + _released(table, step, None), None)
    for call in table.foreign:
        at = base + 2 * call.before
        for exchange in (*call.inputs, *call.outputs):
            yield Use(exchange.buffer, at, at, None)


def _released(table: StageTable, step: int, guard: Guard | None) -> int:
    """The step from whose end on no worker is in stage `step`, run under `guard`, any more."""
    call = next((one.before for one in table.foreign if one.before > step), len(table.stages))
    for later in range(step, call):
        stage = table.stages[later]
        if stage.barrier and (stage.guard is None or stage.guard == guard):
            return 2 * later + 1
    return 2 * call - 1


def _planned(buffers: Mapping[int, Buffer], uses: Mapping[int, Sequence[Use]]) -> dict[int, int]:
    """Offsets of the buffers of one space."""
    kept = {index for index in buffers if _outlives_its_guard(uses[index])}
    offsets: dict[int, int] = {}
    base = 0
    for group in (kept, buffers.keys() - kept):
        lifetimes = [_lifetime(index, buffers[index].bytes, uses[index]) for index in sorted(group)]
        placement = place(lifetimes)
        offsets |= {int(name): base + offset for name, offset in placement.offsets.items()}
        base += placement.bytes
    return offsets


def _outlives_its_guard(uses: Sequence[Use]) -> bool:
    """Whether a buffer is read where the stage that should have written it may have been skipped.

    It is then multiplied by zero, whatever it holds; but that must be numbers, not another buffer's bytes. So
    these buffers share memory only with each other.
    """
    first = min(uses, key=lambda use: use.step)
    return first.guard is not None and any(use.guard != first.guard for use in uses)


def _lifetime(index: int, size: int, uses: Sequence[Use]) -> Lifetime:
    return Lifetime(str(index), size, min(use.step for use in uses), max(use.last for use in uses))


def _renumbered(
    buffers: Sequence[Buffer], offsets: Mapping[int, int], tables: Sequence[StageTable]
) -> tuple[tuple[Buffer, ...], tuple[StageTable, ...]]:
    """One buffer for each place, and the tables with their numbers."""
    numbers: dict[tuple[str, int, int], int] = {}
    renumbered: dict[int, int] = {}
    placed: list[Buffer] = []
    for index, buffer in enumerate(buffers):
        if index not in offsets:
            continue  # nobody uses it
        key = (buffer.space, offsets[index], buffer.bytes)
        if key not in numbers:
            numbers[key] = len(placed)
            placed.append(dataclasses.replace(buffer, offset=offsets[index]))
        renumbered[index] = numbers[key]
    return tuple(placed), tuple(_with_numbers(table, renumbered) for table in tables)


def _with_numbers(table: StageTable, numbers: Mapping[int, int]) -> StageTable:
    stages = tuple(_stage(one, numbers) for one in table.stages)
    return dataclasses.replace(
        table, stages=stages, foreign=tuple(_call(one, numbers) for one in table.foreign)
    )


def _stage(stage: Stage, numbers: Mapping[int, int]) -> Stage:
    guard = stage.guard and dataclasses.replace(stage.guard, buffer=numbers[stage.guard.buffer])
    return dataclasses.replace(stage, buffers=tuple(numbers[one] for one in stage.buffers), guard=guard)


def _call(call: ForeignCall, numbers: Mapping[int, int]) -> ForeignCall:
    inputs, outputs = (
        tuple(dataclasses.replace(one, buffer=numbers[one.buffer]) for one in side)
        for side in (call.inputs, call.outputs)
    )
    return dataclasses.replace(call, inputs=inputs, outputs=outputs)
