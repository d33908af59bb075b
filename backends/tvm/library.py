"""A generated shared object, loaded through ctypes, and its pool of worker threads."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from intaglio.compiler.errors import CodegenError, OptionError

_SIGNATURES = {
    "intaglio_pool_create": (ctypes.c_void_p, [ctypes.c_int, ctypes.POINTER(ctypes.c_int)]),
    "intaglio_pool_destroy": (None, [ctypes.c_void_p]),
    "intaglio_run": (
        ctypes.c_int,
        [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p],
    ),
    "intaglio_last_error": (ctypes.c_char_p, [ctypes.c_void_p]),
    "intaglio_read_bandwidth": (
        ctypes.c_double,
        [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int],
    ),
    "intaglio_peak_operations": (ctypes.c_double, [ctypes.c_void_p, ctypes.c_int, ctypes.c_long]),
}


@dataclass(frozen=True)
class Ceilings:
    """What the machine could do at best, measured by the program's own threads."""

    threads: int
    read_bytes_per_second: float
    int8_operations_per_second: float  # of 8-bit dot products; float32 where the machine has none
    fp32_operations_per_second: float

    def best_of(self, other: Ceilings) -> Ceilings:
        """The higher of each; for the same number of threads."""
        return Ceilings(
            self.threads,
            max(self.read_bytes_per_second, other.read_bytes_per_second),
            max(self.int8_operations_per_second, other.int8_operations_per_second),
            max(self.fp32_operations_per_second, other.fp32_operations_per_second),
        )


class Library:
    """A loaded program and `threads` workers, of which the calling thread is the first."""

    def __init__(self, path: Path, threads: int) -> None:
        """Load `path`; raises `OptionError` for a bad number of threads, `CodegenError` where it fails."""
        self._pool: int | None = None
        available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        most = len(available) or os.cpu_count() or 1
        if not 1 <= threads <= most:
            raise OptionError(f"threads: {threads} is outside 1 … {most}, the CPUs this process may use")
        self._library = _load(path)
        self.threads = threads
        self._cpus = available[:threads] if available else [-1] * threads
        self._pool = self._library.intaglio_pool_create(threads, (ctypes.c_int * threads)(*self._cpus))
        if not self._pool:
            raise CodegenError(f"library: {threads} threads could not be started; use fewer")

    def run(
        self, table: NDArray[np.int64], count: int, position: int, marks: NDArray[np.int64] | None = None
    ) -> None:
        """Run a stage table with absolute addresses; `marks` `[stages + 1]` gets times in nanoseconds."""
        pool = self._open_pool()
        address = None if marks is None else marks.ctypes.data
        if self._library.intaglio_run(pool, table.ctypes.data, len(table), count, position, address):
            reason = self._library.intaglio_last_error(pool).decode(errors="replace")
            raise CodegenError(
                f"library: the program failed: {reason or 'no reason given'}; please report this"
            )

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Keep the calling thread on the first worker's CPU: on another's, it is a hundredfold slower."""
        if self._cpus[0] < 0 or self.threads == 1:
            yield
            return
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self._cpus[0]})
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)

    def measure_ceilings(self, megabytes: int = 256) -> Ceilings:
        """Measure the ceilings: the median of five readings of `megabytes` MB, and of five short counts."""
        data = np.ones(megabytes * 1_000_000 + 64, np.uint8)
        start = data.ctypes.data + (-data.ctypes.data) % 64
        library, pool = self._library, self._open_pool()
        with self.pinned():
            reads = [library.intaglio_read_bandwidth(pool, start, megabytes * 1_000_000, 1) for _ in range(5)]
            eight = [library.intaglio_peak_operations(pool, 1, 2_000_000) for _ in range(5)]
            floats = [library.intaglio_peak_operations(pool, 0, 2_000_000) for _ in range(5)]
        return Ceilings(
            self.threads, float(np.median(reads)), float(np.median(eight)), float(np.median(floats))
        )

    def _open_pool(self) -> int:
        if not self._pool:
            raise OptionError("library: it is closed; open the model again")
        return self._pool

    def close(self) -> None:
        """Stop the workers; a second time does nothing."""
        if self._pool:
            self._library.intaglio_pool_destroy(self._pool)
            self._pool = None

    def __del__(self) -> None:
        # At exit the interpreter stops the workers anyway, and may have cleared what close() needs.
        if not sys.is_finalizing():
            self.close()


def _load(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise CodegenError(
            f"library: {path} does not load ({error}); compile again, or load with recompile=True"
        ) from error
    return library
