"""Opens a GGUF file by mapping it, and checks all that it says of itself before anything is used.

Format: version 2 and 3, little endian (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
Strings and tables are read once; tensor data stays in the file until `GgufFile.blocks` is asked for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from intaglio.compiler.errors import ModelFileError
from intaglio.compiler.frontends.gguf.cursor import Cursor
from intaglio.compiler.frontends.gguf.metadata import SMALLEST_PAIR, UNSIGNED_32, Value, read_metadata
from intaglio.compiler.frontends.gguf.table import SMALLEST_ENTRY, TensorEntry, read_table

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True)
class GgufFile:
    """A mapped file whose header, metadata and tensor table were found to be sound."""

    path: Path
    metadata: Mapping[str, Value]
    tensors: Mapping[str, TensorEntry]
    data: mmap

    def blocks(self, name: str) -> NDArray[np.uint8]:
        """The raw blocks of a tensor, a view of the file: uint8 `[rows, blocks per row, bytes per block]`."""
        entry = self.tensors[name]
        raw = np.frombuffer(self.data, np.uint8, entry.size, entry.offset)
        return raw.reshape(entry.rows, -1, entry.kind.size)


def open_gguf(path: Path) -> GgufFile:
    """Map `path` and read its tables.

    Raises `ModelFileError` where the file is broken, `OSError` where it cannot be read, and
    `UnsupportedModelError` with all tensors whose types are not known.
    """
    data = _map(path)
    cursor = Cursor(data, path)
    _check_start(cursor, data, path)
    tensor_count = cursor.count(SMALLEST_ENTRY, "tensors")
    metadata = read_metadata(cursor, cursor.count(SMALLEST_PAIR, "metadata pairs"))
    table = read_table(cursor, tensor_count, _alignment(metadata, path), len(data))
    return GgufFile(path, metadata, table, data)


def _map(path: Path) -> mmap:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < len(MAGIC):
            raise ModelFileError(f"gguf: {path} is shorter than the four bytes that name its format.")
        return mmap(file.fileno(), 0, access=ACCESS_READ)


def _check_start(cursor: Cursor, data: mmap, path: Path) -> None:
    magic = data[: len(MAGIC)]
    if magic != MAGIC:
        raise ModelFileError(f"gguf: {path} starts with {magic!r} instead of {MAGIC!r}: it is no GGUF file.")
    cursor.offset = len(MAGIC)
    version = int(cursor.scalar(UNSIGNED_32, "the version"))
    if version in VERSIONS:
        return
    swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
    if swapped in VERSIONS:
        cursor.fail("the file is big endian; only little endian is read", len(MAGIC))
    cursor.fail(f"version {version} is not one of {VERSIONS}", len(MAGIC))


def _alignment(metadata: Mapping[str, Value], path: Path) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise ModelFileError(f"gguf: {path}: general.alignment is {alignment!r}, not a power of two.")
    return alignment
