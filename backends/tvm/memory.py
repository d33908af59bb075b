"""Memory for programs: aligned, in huge pages where the system has them.

Decoding reads all weights for every token, a new page of 4 KB every hundred nanoseconds: on a Zen 4 in a
virtual machine, one thread reads 15 to 20 % more per second from huge pages. Files cannot have them on common
file systems, so that weights are read into memory of their own rather than mapped.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from intaglio.backends.tvm.program import align
from intaglio.compiler.errors import ArtifactError

GUARD = 8192  # bytes after a space: kernels prefetch ahead and read whole blocks
HUGE = 1 << 21  # bytes of a huge page
MOST = 0.5  # of the memory that is free; larger weights are mapped
PIECE = 1 << 26  # bytes read at a time


def allocate(size: int) -> NDArray[np.uint8]:
    """Zeroed, aligned memory with a guard; pages come into being when they are touched."""
    needed = align(size) + GUARD
    if needed < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.frombuffer(mmap.mmap(-1, needed), np.uint8)
    # Private: what mmap shares by default is a file of its own, which has no huge pages.
    memory = mmap.mmap(-1, needed + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    advise(memory)
    whole = np.frombuffer(memory, np.uint8)
    start = -whole.ctypes.data % HUGE
    return whole[start : start + needed]


def advise(memory: mmap.mmap) -> None:
    """Ask for huge pages; a kernel without them gives small ones."""
    try:
        memory.madvise(mmap.MADV_HUGEPAGE)
    except OSError:
        return


def read_weights(path: Path, size: int) -> NDArray[np.uint8]:
    """The `size` bytes of the file `path`: in huge pages, or mapped where they would take too much memory.

    Raises:
        ArtifactError: where the file has another size, or cannot be read.
    """
    try:
        found = path.stat().st_size
        if found != size:
            raise ArtifactError(f"weights: {path} has {found} bytes, the program wants {size}; compile again")
        with path.open("rb") as file:
            if size > MOST * psutil.virtual_memory().available or not hasattr(mmap, "MADV_HUGEPAGE"):
                return np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), np.uint8)
            return _read(file.fileno(), size)
    except OSError as error:
        raise ArtifactError(f"weights: {path} cannot be read ({error}); compile again") from error


def _read(file: int, size: int) -> NDArray[np.uint8]:
    weights = allocate(size)
    position = 0
    while position < size:
        count = os.preadv(file, [weights[position : min(position + PIECE, size)].data], position)
        if not count:
            raise OSError(f"the file ends after {position} bytes")
        position += count
    return weights
