"""What could be wrong with a program that was read: numbers that would lead its code astray.

Code follows the addresses that it is given, so that whatever a table names must exist and lie in its space.
The kernels' parameters are not checked: they are in the code already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from intaglio.backends.tvm.program import Buffer, ForeignCall, Guard, Program, Stage, StageTable

FLOAT = 4  # bytes
ENTRIES = ("decode", "prefill", "score")  # tables that every decoder has


def problems_of(program: Program) -> Iterator[str]:
    """Everything in `program` that does not fit together."""
    numbers = (program.capacity, program.vocabulary, program.weight_bytes, program.batch)
    if not all(type(one) is int and one > 0 for one in numbers):
        yield f"capacity, vocabulary, weight bytes and batch are {numbers}"
    for index, buffer in enumerate(program.buffers):
        if reason := _misplaced(buffer, program.weight_bytes):
            yield f"buffer {index}: {reason}"
    names = [table.name for table in program.tables]
    if missing := [name for name in ENTRIES if name not in names]:
        yield f"no table {', '.join(missing)}"
    for table in program.tables:
        yield from (f"table {table.name}: {reason}" for reason in table_problems(table, program))


def table_problems(table: StageTable, program: Program) -> Iterator[str]:
    """Everything in `table` that names what `program` has not."""
    if not _is_index(table.tokens - 1, 1 << 31):
        yield f"for {table.tokens!r} tokens"
    lengths: dict[int, int] = {}  # buffers of a kernel, as its first stage has them
    for index, stage in enumerate(table.stages):
        expected = lengths.setdefault(stage.kernel, len(stage.buffers))
        yield from (f"stage {index}: {reason}" for reason in _astray(stage, program, expected))
    before = 0
    for index, call in enumerate(table.foreign):
        if not _is_index(call.before - before, len(table.stages) + 1 - before):
            yield f"foreign call {index}: ahead of stage {call.before}, of {before} … {len(table.stages)}"
        before = max(before, call.before)
        yield from (f"foreign call {index}: {reason}" for reason in _exchanges(call, program))


def _misplaced(buffer: Buffer, weight_bytes: int) -> str | None:
    from intaglio.backends.tvm.program import ALIGNMENT, SPACES

    if buffer.space not in SPACES:
        return f"an unknown space {buffer.space!r}"
    if not (_is_index(buffer.bytes, 1 << 62) and _is_index(buffer.offset, 1 << 62)):
        return f"{buffer.bytes!r} bytes at {buffer.offset!r}"
    if buffer.offset % ALIGNMENT:
        return f"its offset {buffer.offset} is no multiple of {ALIGNMENT}"
    end = buffer.offset + buffer.bytes
    outside = buffer.space == "weights" and end > weight_bytes
    return f"it ends at {end}, beyond the {weight_bytes} bytes of weights" if outside else None


def _astray(stage: Stage, program: Program, expected: int) -> Iterator[str]:
    from intaglio.backends.tvm.program import POINTERS, ROW

    if not _is_index(stage.kernel, len(program.kernels)):
        yield f"kernel {stage.kernel!r} of {len(program.kernels)}"
    if len(stage.buffers) != expected or expected > ROW - POINTERS:
        yield f"{len(stage.buffers)} buffers, where its kernel has {expected}, and at most {ROW - POINTERS}"
    for buffer in stage.buffers:
        if not _is_index(buffer, len(program.buffers)):
            yield f"buffer {buffer!r} of {len(program.buffers)}"
    if not _is_index(stage.count, 1 << 31):
        yield f"a count of {stage.count!r}"
    if stage.guard is not None and not _is_inside(stage.guard, program.buffers):
        yield f"a guard at float {stage.guard.offset!r} of buffer {stage.guard.buffer!r}"


def _exchanges(call: ForeignCall, program: Program) -> Iterator[str]:
    if not _is_index(call.region, len(program.foreign)):
        yield f"region {call.region!r} of {len(program.foreign)}"
    for one in (*call.inputs, *call.outputs):
        if not _is_index(one.buffer, len(program.buffers)):
            yield f"buffer {one.buffer!r} of {len(program.buffers)}"
        if not all(_is_index(size, 1 << 31) for size in (one.stride, one.offset, *one.shape)):
            yield f"rows of {one.stride!r} floats, from {one.offset!r}, shaped {one.shape!r}"


def _is_inside(guard: Guard, buffers: Sequence[Buffer]) -> bool:
    if not _is_index(guard.buffer, len(buffers)):
        return False
    return _is_index(guard.offset, buffers[guard.buffer].bytes // FLOAT)


def _is_index(value: object, size: int) -> bool:
    # Not booleans, nor anything else that JSON may have held.
    return type(value) is int and 0 <= value < size
