"""Reads the header of a safetensors file and checks all that it says; the numbers stay in the mapped file.

Format: eight bytes that give the length of a JSON table, the table, the tensors
(https://github.com/huggingface/safetensors#format). The file is read without the `safetensors` package, which
offers no view of bfloat16 to numpy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import onnx_ir as ir

LENGTH_BYTES = 8
LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors package
METADATA = "__metadata__"
DTYPES: Mapping[str, ir.DataType] = {
    "F64": ir.DataType.DOUBLE,
    "F32": ir.DataType.FLOAT,
    "F16": ir.DataType.FLOAT16,
    "BF16": ir.DataType.BFLOAT16,
    "F8_E4M3": ir.DataType.FLOAT8E4M3FN,
    "F8_E5M2": ir.DataType.FLOAT8E5M2,
    "I64": ir.DataType.INT64,
    "I32": ir.DataType.INT32,
    "I16": ir.DataType.INT16,
    "I8": ir.DataType.INT8,
    "U64": ir.DataType.UINT64,
    "U32": ir.DataType.UINT32,
    "U16": ir.DataType.UINT16,
    "U8": ir.DataType.UINT8,
    "BOOL": ir.DataType.BOOL,
}


@dataclass(frozen=True)
class TableEntry:
    """Where a tensor lies in its file."""

    name: str
    dtype: ir.DataType
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file
    size: int  # bytes


@dataclass(frozen=True)
class SafetensorsFile:
    """A mapped file whose table was found to be sound."""

    path: Path
    entries: Mapping[str, TableEntry]
    data: mmap


def open_safetensors(path: Path) -> SafetensorsFile | list[str]:
    """The file, mapped; or everything that is wrong with it, each problem naming the file."""
    try:
        size = path.stat().st_size
        data = _map(path) if size else None
    except OSError as error:
        return [f"{path.name} cannot be read: {error.strerror}"]
    table = "it is empty" if data is None else _table(data)
    if isinstance(table, str):
        return [f"{path.name}: {table}"]
    assert data is not None, "an empty file has no table"
    header, start = table
    entries, problems = _entries(header, start, size)
    if problems:
        return [f"{path.name}: {problem}" for problem in problems]
    return SafetensorsFile(path, entries, data)


def _map(path: Path) -> mmap:
    with path.open("rb") as file:
        return mmap(file.fileno(), 0, access=ACCESS_READ)


def _table(data: mmap) -> tuple[dict[str, Any], int] | str:
    """The JSON table and where the tensors start; or what is wrong."""
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    start = LENGTH_BYTES + length
    if len(data) < LENGTH_BYTES or length > LONGEST_HEADER or start > len(data):
        return (
            f"its header claims {length} bytes, the file has {len(data)}: truncated, or no safetensors file"
        )
    try:
        table = json.loads(data[LENGTH_BYTES:start])
    except (ValueError, RecursionError) as error:
        return f"its header is not JSON ({error})"
    return (table, start) if isinstance(table, dict) else "its header is not a JSON object"


def _entries(header: dict[str, Any], start: int, size: int) -> tuple[dict[str, TableEntry], list[str]]:
    entries, problems = {}, []
    for name, described in header.items():
        if name == METADATA:
            continue
        entry = _entry(name, described, start)
        if isinstance(entry, str):
            problems.append(entry)
        else:
            entries[name] = entry
    problems += _misplaced(list(entries.values()), start, size)
    return entries, problems


def _entry(name: str, described: Any, start: int) -> TableEntry | str:
    try:
        dtype, shape, (begin, end) = described["dtype"], described["shape"], described["data_offsets"]
    except (KeyError, TypeError, ValueError):
        return f"{name}: its entry {described!r} lacks dtype, shape or two data_offsets"
    if dtype not in DTYPES:
        return f"{name}: dtype {dtype!r} is not one of {', '.join(DTYPES)}"
    numbers = [*shape, begin, end] if isinstance(shape, list) else [None]
    if any(type(one) is not int or one < 0 for one in numbers):
        return f"{name}: shape {shape!r} or data_offsets {[begin, end]!r} are no natural numbers"
    wanted = DTYPES[dtype].bitwidth // 8
    for dimension in shape:
        wanted *= dimension
    if end - begin != wanted:
        return f"{name}: {dtype} {shape} takes {wanted} bytes, data_offsets give it {end - begin}"
    return TableEntry(name, DTYPES[dtype], tuple(shape), start + begin, wanted)


def _misplaced(entries: list[TableEntry], start: int, size: int) -> Iterator[str]:
    """Tensors that overlap or lie outside the file."""
    end, before = start, ""
    for entry in sorted(entries, key=lambda one: (one.offset, one.size)):
        if entry.offset < end and entry.size:
            yield f"{entry.name} overlaps {before}"
        end, before = max(end, entry.offset + entry.size), entry.name
        if entry.offset + entry.size > size:
            yield f"{entry.name} ends at byte {entry.offset + entry.size}, the file at {size}: truncated"
