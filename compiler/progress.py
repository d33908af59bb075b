"""What a long operation tells while it runs, and what it remembers: phases, seconds, memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

from intaglio.compiler.memory import PeakMemory

if TYPE_CHECKING:
    from rich.progress import Progress


class ProgressListener(Protocol):
    """Told of phases as they begin; `total` is how many there are, as far as is known."""

    def __call__(self, phase: str, index: int, total: int) -> None:
        """`phase` begins, the `index`-th (from 0) of `total`; at the end `index == total`."""


class Recorder:
    """Times the phases of one operation and tells `listener` of them."""

    def __init__(
        self, memory: PeakMemory, listener: ProgressListener | None, phases: tuple[str, ...] = ()
    ) -> None:
        self._memory, self._phases, self._listener = memory, phases, listener
        self.seconds: dict[str, float] = {}

    def expect(self, phases: tuple[str, ...]) -> None:
        """Now all `phases` are known, those that are over included."""
        self._phases = phases

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Around the work of one phase."""
        index = len(self.seconds)
        assert not self._phases or self._phases[index] == name, f"{name} was not expected here"
        self._tell(name, index, max(len(self._phases), index + 1))
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        self._memory.sample()
        if index == len(self._phases) - 1:
            self._tell("done", index + 1, index + 1)

    def _tell(self, phase: str, index: int, total: int) -> None:
        if self._listener is not None:
            self._listener(phase, index, total)


def terminal_progress(*, wanted: bool = True) -> AbstractContextManager[ProgressListener | None]:
    """A bar on standard error while it is a terminal and `wanted`; otherwise no listener at all."""
    if not wanted or not sys.stderr.isatty():
        return nullcontext()
    return _bar()


@contextmanager
def _bar() -> Iterator[ProgressListener]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<10}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _BarListener(bar)


class _BarListener:
    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None)

    def __call__(self, phase: str, index: int, total: int) -> None:
        self._bar.update(self._task, description=phase, completed=index, total=total)
