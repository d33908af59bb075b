"""How much anonymous memory this process and its children hold, and held at most."""

from __future__ import annotations

import os
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
    Where the system does not tell (macOS), resident memory stands in for it.
    """
    if Path("/proc/thread-self/children").exists():
        return _anonymous(os.getpid())
    me = psutil.Process()
    return sum(int(process.memory_info().rss) for process in (me, *me.children(recursive=True)))


def _anonymous(process: int) -> int:
    """Of a process and its children; a process that has ended meanwhile holds nothing."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        found = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")]
        # Looking through all processes for children, as psutil does, takes milliseconds.
        children = [one.read_text().split() for one in Path(f"/proc/{process}/task").glob("*/children")]
    except OSError:
        return 0
    own = int(found[0]) * 1024 if found else 0
    return own + sum(_anonymous(int(child)) for listed in children for child in listed)


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
