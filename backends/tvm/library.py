"""A generated shared object, loaded through ctypes, and its pool of worker threads."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from intaglio.compiler.errors import CodegenError, OptionError

_SIGNATURES = {
    "intaglio_ask_for_registers": (ctypes.c_int, []),
    "intaglio_pool_create": (ctypes.c_void_p, [ctypes.c_int, ctypes.POINTER(ctypes.c_int)]),
    "intaglio_pool_destroy": (None, [ctypes.c_void_p]),
    "intaglio_run": (
        ctypes.c_int,
        [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p],
    ),
    "intaglio_last_error": (ctypes.c_char_p, [ctypes.c_void_p]),
}


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
        if self._library.intaglio_ask_for_registers():
            raise CodegenError(
                "library: Linux refuses this process the tile registers of AMX; compile for cpu:avx512-bf16"
            )
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
