"""The tensor table of a GGUF file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.frontends.gguf.cursor import LENGTH, Cursor
from intaglio.compiler.frontends.gguf.metadata import UNSIGNED_32
from intaglio.compiler.frontends.gguf.types import TENSOR_TYPES, TensorType

SMALLEST_ENTRY = 8 + 4 + 8 + 4 + 8  # length of the name, rank, one dimension, type, offset
LARGEST_RANK = 4


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies in the file."""

    name: str
    shape: tuple[int, ...]  # outermost first; GGUF itself writes the innermost dimension first
    kind: TensorType
    offset: int  # bytes from the start of the file
    size: int  # bytes

    @property
    def rows(self) -> int:
        """How many rows of `shape[-1]` numbers there are."""
        return math.prod(self.shape[:-1])


@dataclass(frozen=True)
class RawEntry:
    """An entry as written, not yet checked."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int  # bytes from the start of the tensor data
    position: int  # byte of the file at which the entry starts


def read_table(cursor: Cursor, count: int, alignment: int, file_size: int) -> dict[str, TensorEntry]:
    """The next `count` entries; their data must be aligned, inside the file, and nowhere shared."""
    raw = [_entry(cursor, index) for index in range(count)]
    _refuse_unknown_types(raw)
    start = -(-cursor.offset // alignment) * alignment
    table: dict[str, TensorEntry] = {}
    for one in raw:
        if one.name in table:
            cursor.fail(f"the tensor {one.name!r} occurs twice", one.position)
        table[one.name] = _checked(cursor, one, start, alignment, file_size)
    _refuse_overlaps(cursor, table)
    return table


def _entry(cursor: Cursor, index: int) -> RawEntry:
    position = cursor.offset
    name = cursor.text(f"the name of tensor {index}")
    rank = int(cursor.scalar(UNSIGNED_32, f"the rank of {name!r}"))
    if not 1 <= rank <= LARGEST_RANK:
        cursor.fail(f"the tensor {name!r} has rank {rank}, not 1 to {LARGEST_RANK}", position)
    inverted = [int(cursor.scalar(LENGTH, f"the shape of {name!r}")) for _ in range(rank)]
    kind = int(cursor.scalar(UNSIGNED_32, f"the type of {name!r}"))
    offset = int(cursor.scalar(LENGTH, f"the offset of {name!r}"))
    return RawEntry(name, tuple(reversed(inverted)), kind, offset, position)


def _refuse_unknown_types(entries: list[RawEntry]) -> None:
    unknown = [f"{one.name}: type {one.kind}" for one in entries if one.kind not in TENSOR_TYPES]
    if unknown:
        raise UnsupportedModelError("gguf: these tensors have types that are not known:", unknown)


def _checked(cursor: Cursor, raw: RawEntry, start: int, alignment: int, file_size: int) -> TensorEntry:
    kind, name = TENSOR_TYPES[raw.kind], raw.name
    if min(raw.shape) < 1:
        cursor.fail(f"the tensor {name!r} has the shape {list(raw.shape)}", raw.position)
    if raw.shape[-1] % kind.elements:
        width = raw.shape[-1]
        cursor.fail(
            f"rows of {name!r} are {width} long, no multiple of {kind.name}'s {kind.elements}", raw.position
        )
    if raw.offset % alignment:
        cursor.fail(f"the tensor {name!r} starts at {raw.offset}, not aligned to {alignment}", raw.position)
    size = math.prod(raw.shape) // kind.elements * kind.size
    if start + raw.offset + size > file_size:
        end = start + raw.offset + size
        cursor.fail(f"the tensor {name!r} ends at byte {end}, but the file has {file_size}", raw.position)
    return TensorEntry(name, raw.shape, kind, start + raw.offset, size)


def _refuse_overlaps(cursor: Cursor, table: dict[str, TensorEntry]) -> None:
    for first, second in pairwise(sorted(table.values(), key=lambda entry: entry.offset)):
        if first.offset + first.size > second.offset:
            cursor.fail(f"the tensors {first.name!r} and {second.name!r} overlap", second.offset)
