"""A reading position in a memory-mapped file that refuses to leave it."""

from __future__ import annotations

import struct
from mmap import mmap
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from intaglio.compiler.errors import ModelFileError

LENGTH = struct.Struct("<Q")


class Cursor:
    """Reads little-endian values one after another; every length is checked before anything is allocated.

    Where a value does not fit into the rest of the file, `ModelFileError` says what was being read and where.
    """

    def __init__(self, data: mmap, path: Path) -> None:
        self._data = data
        self._path = path
        self.offset = 0

    @property
    def remaining(self) -> int:
        """Bytes between here and the end of the file."""
        return len(self._data) - self.offset

    def fail(self, problem: str, offset: int | None = None) -> NoReturn:
        """Raise `ModelFileError` for a problem at `offset` (by default: here)."""
        at = self.offset if offset is None else offset
        raise ModelFileError(
            f"gguf: {self._path}: at byte {at}: {problem}. Download or convert the file again."
        )

    def require(self, size: int, what: str) -> None:
        """Refuse to go on where fewer than `size` bytes are left."""
        if size > self.remaining:
            self.fail(f"{what} needs {size} bytes, but {self.remaining} are left in the file")

    def scalar(self, layout: struct.Struct, what: str) -> int | float:
        """One number, by its layout."""
        self.require(layout.size, what)
        (value,) = layout.unpack_from(self._data, self.offset)
        self.offset += layout.size
        number: int | float = value
        return number

    def count(self, smallest: int, what: str) -> int:
        """A 64-bit count of things that take at least `smallest` bytes each."""
        start = self.offset
        count = int(self.scalar(LENGTH, f"the number of {what}"))
        if count * smallest > self.remaining:
            self.fail(f"{count} {what} cannot fit into the {self.remaining} bytes that are left", start)
        return count

    def text(self, what: str) -> str:
        """One string: a 64-bit length and UTF-8 bytes."""
        return self.texts(1, what)[0]

    def texts(self, count: int, what: str) -> list[str]:
        """`count` strings in a row."""
        data, offset, end = self._data, self.offset, len(self._data)
        found: list[str] = []
        for index in range(count):
            start = offset + LENGTH.size
            stop = start + LENGTH.unpack_from(data, offset)[0] if start <= end else end + 1
            if stop > end:
                self.fail(f"string {index} of {what} runs past the end of the file", offset)
            found.append(self._decode(data[start:stop], what, start))
            offset = stop
        self.offset = offset
        return found

    def array(self, dtype: np.dtype[np.generic], count: int, what: str) -> NDArray[np.generic]:
        """A copy of `count` numbers."""
        size = count * dtype.itemsize
        self.require(size, what)
        values = np.frombuffer(self._data[self.offset : self.offset + size], dtype)
        self.offset += size
        return values

    def _decode(self, raw: bytes, what: str, offset: int) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            self.fail(f"{what} is not UTF-8 ({error.reason})", offset + error.start)
