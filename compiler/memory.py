"""How much anonymous memory this process and its children hold, and held at most."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import psutil

INTERVAL = 0.02  # seconds between samples


def anonymous_bytes() -> int:
    """Anonymous memory resident now, in this process and its children.

    Pages mapped from files (model, weights, libraries) are left out: the system drops them when need be.
    Where there is no /proc (macOS), resident memory stands in for it.
    """
    me = psutil.Process()
    return sum(_of(process) for process in (me, *me.children(recursive=True)))


def _of(process: psutil.Process) -> int:
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return _resident(process)
    found = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(found[0]) * 1024 if found else 0  # a process that has ended holds nothing


def _resident(process: psutil.Process) -> int:
    if Path("/proc/self/status").exists():
        return 0  # it ended between being listed and being read
    return int(process.memory_info().rss)


class PeakMemory:
    """Samples `anonymous_bytes` in a thread while it is open; `bytes` is the largest excess found."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="intaglio-peak-memory", daemon=True)
        self.baseline = 0
        self._largest = 0
        self._before_imports = 0

    @property
    def bytes(self) -> int:
        """The largest anonymous memory seen so far, beyond what was held at the beginning."""
        return max(self._before_imports, self._largest - self.baseline)

    @contextmanager
    def importing(self) -> Iterator[None]:
        """What is imported meanwhile counts as held at the beginning."""
        self._before_imports, before = self.bytes, anonymous_bytes()
        yield
        after = anonymous_bytes()
        self.baseline += max(0, after - before)
        self._largest = after

    def sample(self) -> None:
        """Look now, too: at the end of a phase, say."""
        self._largest = max(self._largest, anonymous_bytes())

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL):
            self.sample()

    def __enter__(self) -> PeakMemory:
        self.baseline = anonymous_bytes()
        self.sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self.sample()
