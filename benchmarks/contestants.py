"""The processes of a race: each holds one contestant, and waits on a pipe while others run.

A request is a line of JSON, `{"do": …, …}`, and so is the answer: `{"answer": …}`, or `{"error": …}`.
`contestant.py` is the other end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
LAST_LINES = 15  # of what a process printed, when it fails


class ContestantError(Exception):
    """A contestant could not be started or failed; the message ends with what it printed."""


class Contestant:
    """One process; see `contestant.py` for what it can be asked."""

    def __init__(self, name: str, python: str, options: Mapping[str, Any]) -> None:
        """Start it; raises `ContestantError` where it cannot be."""
        self.name = name
        # A file, since nobody reads a pipe while the process runs.
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 closed by `close`
        command = [python, str(HERE / "contestant.py"), name, json.dumps(dict(options))]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            env=environment(),
            text=True,
        )
        self._processor_seconds, self._since = 0.0, 0.0
        self.idle_share = 0.0  # of one processor, the most that it used while others ran
        try:
            self._receive()
        except ContestantError:
            self.close()
            raise

    def ask(self, do: str, **arguments: Any) -> Any:
        """Its answer to a request; raises `ContestantError`."""
        self._note_idleness()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._failure("is gone") from error
        return self._receive()

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._printed.close()

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failure(f"ended with status {self._process.wait()}")
        self._processor_seconds, self._since = self._used(), time.perf_counter()
        message = json.loads(line)
        if "error" in message:
            raise self._failure(message["error"])
        return message["answer"]

    def _note_idleness(self) -> None:
        waited = time.perf_counter() - self._since
        if waited > 1:
            self.idle_share = max(self.idle_share, (self._used() - self._processor_seconds) / waited)

    def _used(self) -> float:
        try:
            times = psutil.Process(self._process.pid).cpu_times()
        except psutil.Error:
            return self._processor_seconds
        return float(times.user + times.system)

    def _failure(self, reason: str) -> ContestantError:
        self._printed.seek(0)
        lines = self._printed.read().decode(errors="replace").splitlines()
        return ContestantError("\n".join([f"{self.name}: {reason}", *lines[-LAST_LINES:]]))


@contextmanager
def started(wanted: Mapping[str, tuple[str, Mapping[str, Any]]]) -> Iterator[dict[str, Contestant | str]]:
    """Contestants by name, from Python and options of each; in place of one that cannot be, the reason."""
    running: dict[str, Contestant | str] = {}
    try:
        for name, (python, options) in wanted.items():
            try:
                running[name] = Contestant(name, python, options)
            except ContestantError as error:
                running[name] = str(error)
        yield running
    finally:
        for one in running.values():
            if isinstance(one, Contestant):
                one.close()


def run_script(python: str, script: str, arguments: list[str]) -> Any:
    """Run a script of this folder to its end and read the JSON it prints. Raises `ContestantError`."""
    done = subprocess.run(
        [python, str(HERE / script), *arguments],
        env=environment(),
        text=True,
        errors="replace",
        capture_output=True,
        check=False,
    )
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-LAST_LINES:])
        raise ContestantError(f"{script}: exit status {done.returncode}\n{tail}")
    return json.loads(done.stdout)


def environment() -> dict[str, str]:
    """Ours, without what would hide sibling modules from a script."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}


def tell(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)
