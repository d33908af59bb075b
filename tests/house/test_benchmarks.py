"""The arithmetic and the order of `benchmarks/compare.py`; timing needs the rivals and a quiet machine."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; with its folder on the path it finds its siblings."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("compare")


@pytest.fixture
def peers(compare: ModuleType) -> ModuleType:
    return importlib.import_module("peers")


def rates(prefill: float, short: float, long: float) -> dict[str, float]:
    return {"prefill": prefill, "decode_after_32": short, "decode_after_prefill": long}


def test_every_round_begins_with_another_contestant(compare: ModuleType) -> None:
    order: list[str] = []

    def race(name: str) -> dict[str, float]:
        order.append(name)
        return rates(1, 1, 1)

    contestants = {name: partial(race, name) for name in "abc"}
    played = compare.play(contestants, rounds=4)
    assert "".join(order) == "abc" + "bca" + "cab" + "abc"
    assert [len(of_one) for of_one in played.values()] == [4, 4, 4]


def test_a_ratio_is_the_median_of_the_rounds_own(compare: ModuleType) -> None:
    # The second round was slow for both: the ratio of medians would be 150 / 100.
    ours = [rates(300, 20, 1), rates(120, 20, 1), rates(150, 20, 1)]
    theirs = [rates(100, 10, 2), rates(60, 10, 2), rates(100, 40, 2)]
    summary = compare.summarise(ours, theirs)
    assert summary["prefill"] == {"median": 100, "min": 60, "max": 100, "ratio": 2.0}
    assert [summary[name]["ratio"] for name in ("decode_after_32", "decode_after_prefill")] == [2.0, 0.5]


def test_the_table_has_a_row_for_each(compare: ModuleType) -> None:
    one = [rates(1712.4, 225.1, 215.0)]
    lines = compare.table({name: compare.summarise(one, one) for name in ("intaglio", "llama")}).splitlines()
    assert lines[2:] == [
        f"| {name} | 1712 (1.00 ×) | 225 (1.00 ×) | 215 (1.00 ×) |" for name in ("intaglio", "llama")
    ]


def test_a_rival_that_fails_is_an_error_with_its_last_words(peers: ModuleType) -> None:
    with pytest.raises(peers.PeerError, match=r"no_such_script\.py: exit status 2\n.*No such file"):
        peers.ask(sys.executable, "no_such_script.py", [])


def test_the_scripts_agree_on_the_rivals(peers: ModuleType) -> None:
    assert tuple(importlib.import_module("rivals").RIVALS) == peers.RIVALS
