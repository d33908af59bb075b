"""Phases are timed and told; peak memory is seen."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest

from intaglio.compiler.memory import PeakMemory, anonymous_bytes
from intaglio.compiler.progress import Recorder, terminal_progress

MEGABYTES = 80


def test_phases_are_timed_and_told() -> None:
    told: list[tuple[str, int, int]] = []
    with PeakMemory() as memory:
        recorder = Recorder(memory, lambda *what: told.append(what), ("one", "two"))
        with recorder.phase("one"):
            time.sleep(0.02)
        with recorder.phase("two"):
            pass
    assert told == [("one", 0, 2), ("two", 1, 2), ("done", 2, 2)]
    assert list(recorder.seconds) == ["one", "two"]
    assert 0.02 <= recorder.seconds["one"] < 2


def test_a_short_peak_is_seen() -> None:
    with PeakMemory() as memory:
        block = np.ones(MEGABYTES * 1_000_000, np.uint8)
        time.sleep(0.2)
        del block
    assert MEGABYTES * 0.9e6 < memory.bytes < MEGABYTES * 1.5e6


def test_what_is_imported_counts_as_held_at_the_beginning() -> None:
    with PeakMemory() as memory:
        early = np.ones(MEGABYTES * 1_000_000 // 2, np.uint8)
        memory.sample()
        del early
        with memory.importing():
            held = np.ones(MEGABYTES * 1_000_000, np.uint8)
        assert memory.bytes < MEGABYTES * 0.7e6
        late = np.ones(MEGABYTES * 1_000_000, np.uint8)
    assert MEGABYTES * 0.9e6 < memory.bytes < MEGABYTES * 1.5e6
    assert held.size == late.size


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere resident memory stands in")
def test_mapped_files_do_not_count(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("memory") / "file"
    path.write_bytes(bytes(MEGABYTES * 1_000_000))
    mapped = np.memmap(path, np.uint8, "r")
    before = anonymous_bytes()
    assert mapped.sum() == 0
    assert anonymous_bytes() - before < 20e6


def test_children_count() -> None:
    import subprocess

    code = f"x = bytearray({MEGABYTES}_000_000); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        with_child = anonymous_bytes()
        child.stdin.close()
    assert with_child - anonymous_bytes() > MEGABYTES * 0.9e6


def test_there_is_no_bar_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal_progress() as listener:
        assert listener is None
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with terminal_progress(wanted=False) as listener:
        assert listener is None
    with terminal_progress() as listener:
        assert listener is not None
        listener("weights", 2, 5)
    shown = capsys.readouterr()
    assert shown.out == ""
