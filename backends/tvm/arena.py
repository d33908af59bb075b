"""The weight arena: one file of packed weights, each section aligned; written one weight at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from intaglio.backends.tvm.program import align

Sections = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class _Entry:
    offsets: dict[str, tuple[int, int]]  # section → offset, bytes
    make: Callable[[], Sections]


@dataclass
class Arena:
    """Where every packed weight will lie; nothing is packed before `write`."""

    bytes: int = 0
    entries: dict[str, _Entry] = field(default_factory=dict)

    def place(
        self, name: str, sizes: dict[str, int], make: Callable[[], Sections]
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
        """Pack everything into the file `path`, one weight in memory at a time; its size in bytes."""
        with path.open("wb") as file:
            for entry in self.entries.values():
                sections = entry.make()
                for name, (offset, size) in entry.offsets.items():
                    assert sections[name].nbytes == size, (
                        f"{name} packs to {sections[name].nbytes}, not {size}"
                    )
                    file.seek(offset)
                    file.write(sections[name].data)
            file.truncate(self.bytes)
        return self.bytes
