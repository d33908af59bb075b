"""The key-value part of a GGUF file."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from intaglio.compiler.frontends.gguf.cursor import Cursor

Value: TypeAlias = str | bool | int | float | list[str] | NDArray[np.generic]

UNSIGNED_32 = struct.Struct("<I")
BOOLEAN, STRING, ARRAY = 7, 8, 9
NUMBERS: Mapping[int, tuple[str, str]] = {  # type → how struct and numpy spell it
    0: ("<B", "u1"),
    1: ("<b", "i1"),
    2: ("<H", "<u2"),
    3: ("<h", "<i2"),
    4: ("<I", "<u4"),
    5: ("<i", "<i4"),
    6: ("<f", "<f4"),
    BOOLEAN: ("<B", "u1"),
    10: ("<Q", "<u8"),
    11: ("<q", "<i8"),
    12: ("<d", "<f8"),
}
SMALLEST_PAIR = 8 + 4 + 1  # length of the key, type, one byte of value
SMALLEST_STRING = 8


def read_metadata(cursor: Cursor, count: int) -> dict[str, Value]:
    """The next `count` pairs; a key given twice is refused."""
    metadata: dict[str, Value] = {}
    for index in range(count):
        start = cursor.offset
        key = cursor.text(f"the key of metadata pair {index}")
        if key in metadata:
            cursor.fail(f"the metadata key {key!r} occurs twice", start)
        metadata[key] = _value(cursor, key)
    return metadata


def _value(cursor: Cursor, key: str) -> Value:
    kind = int(cursor.scalar(UNSIGNED_32, f"the type of {key!r}"))
    if kind == STRING:
        return cursor.text(f"the value of {key!r}")
    if kind == ARRAY:
        return _array(cursor, key)
    if kind not in NUMBERS:
        cursor.fail(f"{key!r} has the unknown type {kind}", cursor.offset - UNSIGNED_32.size)
    value = cursor.scalar(struct.Struct(NUMBERS[kind][0]), f"the value of {key!r}")
    if kind == BOOLEAN and value > 1:
        cursor.fail(f"{key!r} is a truth value, but its byte is {value}", cursor.offset - 1)
    return bool(value) if kind == BOOLEAN else value


def _array(cursor: Cursor, key: str) -> list[str] | NDArray[np.generic]:
    kind = int(cursor.scalar(UNSIGNED_32, f"the element type of {key!r}"))
    if kind == STRING:
        return cursor.texts(cursor.count(SMALLEST_STRING, f"strings of {key!r}"), repr(key))
    if kind not in NUMBERS:
        reason = "nested arrays" if kind == ARRAY else f"elements of the unknown type {kind}"
        cursor.fail(f"{key!r} holds {reason}", cursor.offset - UNSIGNED_32.size)
    dtype = np.dtype(NUMBERS[kind][1])
    return cursor.array(dtype, cursor.count(dtype.itemsize, f"elements of {key!r}"), f"the array {key!r}")
