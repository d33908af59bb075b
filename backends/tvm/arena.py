"""The weight arena: one file of packed weights, each section aligned; written one weight at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from intaglio.backends.tvm.program import align

# Pieces of sections, by the sections' names, those of one section in the order in which they lie.
Pieces = Iterable[tuple[str, NDArray[np.generic]]]


@dataclass(frozen=True)
class _Entry:
    offsets: dict[str, tuple[int, int]]  # section → offset, bytes
    make: Callable[[], Pieces]


@dataclass
class Arena:
    """Where every packed weight will lie; nothing is packed before `write`."""

    bytes: int = 0
    entries: dict[str, _Entry] = field(default_factory=dict)

    def place(
        self, name: str, sizes: dict[str, int], make: Callable[[], Pieces]
    ) -> dict[str, tuple[int, int]]:
        """Offset and bytes of the sections of `name`, placed at the end unless they have a place already."""
        if name not in self.entries:
            offsets = {}
            for section, size in sizes.items():
                offsets[section] = (self.bytes, size)
                self.bytes += align(size)
            self.entries[name] = _Entry(offsets, make)
        return self.entries[name].offsets

    def write(self, path: Path) -> int:
        """Pack everything into the file `path`, a piece in memory at a time; its size in bytes."""
        with path.open("wb") as file:
            for name, entry in self.entries.items():
                written = Counter[str]()
                for section, piece in entry.make():
                    file.seek(entry.offsets[section][0] + written[section])
                    file.write(piece.data)
                    written[section] += piece.nbytes
                expected = {section: size for section, (_, size) in entry.offsets.items()}
                assert written == expected, f"{name} packs to {written}, not {expected}"
            file.truncate(self.bytes)
        return self.bytes
