"""The figures of a benchmark, from a session whose speed is known."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from intaglio.backends.tvm import Ceilings
from intaglio.compiler.benchmark import BenchOptions, Rate, measure
from intaglio.compiler.errors import ContextLengthError, OptionError

PROGRAM: Any = SimpleNamespace(
    bytes_per_token=1_000_000, cache_bytes_per_position=100, multiply_adds_per_token=1_500_000
)
ARCHITECTURE = {"vocabulary": 100, "hidden": 5_000}
REQUIRED = {
    "prefill_tokens_per_second",
    "prefill_tokens_per_second_min",
    "prefill_tokens_per_second_max",
    "decode_tokens_per_second",
    "decode_tokens_per_second_min",
    "decode_tokens_per_second_max",
    "decode_after_prefill_tokens_per_second",
    "bytes_per_token",
    "bandwidth_fraction",
    "compute_fraction",
    "read_bandwidth_bytes_per_second",
}


class ClockSession:
    """Takes a millisecond per call and a tenth per token of a clock that it moves itself."""

    vocabulary, capacity = 100, 200

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.position, self.prompts = 0.0, 0, list[tuple[int, ...]]()
        monkeypatch.setattr("time.perf_counter", lambda: self.now)

    def reset(self, position: int = 0) -> None:
        self.position = position

    def choose(self, tokens: Sequence[int]) -> int:
        assert self.position + len(tokens) <= self.capacity
        if len(tokens) > 1:
            self.prompts.append(tuple(tokens))
        self.position += len(tokens)
        self.now += 0.001 + 0.0001 * len(tokens)
        return 0

    def measure_ceilings(self) -> Ceilings:
        """Slower before the first prompt than afterwards: the better one counts."""
        slow = 1.0 if self.prompts else 0.5
        return Ceilings(2, 2e9 * slow, 1e11 * slow, 4e10 * slow, 2e10 * slow)


def run(monkeypatch: pytest.MonkeyPatch, options: BenchOptions) -> tuple[Any, ClockSession]:
    session: Any = ClockSession(monkeypatch)
    return measure(session, PROGRAM, ARCHITECTURE, 2, options), session


def test_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = run(monkeypatch, BenchOptions(prefill=100, decode=50, rounds=3))
    values = found.to_json()
    assert set(values) >= REQUIRED
    assert values["prefill_tokens_per_second"] == pytest.approx(100 / 0.011)
    assert values["decode_tokens_per_second"] == pytest.approx(1 / 0.0011)
    assert values["decode_after_prefill_tokens_per_second_min"] == pytest.approx(1 / 0.0011)
    # Positions 33 … 82 are read on average; see Benchmark for what is counted.
    assert values["cache_bytes_per_token"] == pytest.approx(100 * np.mean(range(33, 83)))
    assert values["bandwidth_fraction"] == pytest.approx((1_000_000 + 5750) / 0.0011 / 2e9)
    assert values["cache_bytes_per_position"] == 100
    # Positions 101 … 150 after the prefill.
    assert values["bandwidth_fraction_after_prefill"] == pytest.approx((1_000_000 + 12550) / 0.0011 / 2e9)
    assert values["bf16_operations_per_second"] == 4e10
    # The head's 500 000 multiply-adds are done for the last token of the prompt alone.
    assert values["compute_fraction"] == pytest.approx(2 * (1_000_000 + 5_000) * 100 / 0.011 / 1e11)
    assert (values["prefill_tokens"], values["decode_tokens"], values["rounds"]) == (100, 50, 3)
    assert values["threads"] == 2


def test_every_round_has_its_own_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    _, session = run(monkeypatch, BenchOptions(prefill=100, decode=5, rounds=2))
    assert len(session.prompts) == len(set(session.prompts)) == 6  # a warm-up round, and two prompts in each


def test_a_prompt_of_one_token(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = run(monkeypatch, BenchOptions(prefill=1, decode=1, rounds=1))
    assert found.prefill.median == pytest.approx(1 / 0.0011)


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, BenchOptions(prefill=150, decode=50, rounds=1))
    with pytest.raises(ContextLengthError, match="201 tokens"):
        run(monkeypatch, BenchOptions(prefill=151, decode=50, rounds=1))
    with pytest.raises(ContextLengthError, match="232 tokens"):
        run(monkeypatch, BenchOptions(prefill=1, decode=200, rounds=1))


@pytest.mark.parametrize("options", [{"prefill": 0}, {"decode": -1}, {"rounds": 1.5}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        BenchOptions(**options)


def test_the_median_is_of_rates() -> None:
    assert Rate.of(10, [1.0, 2.0, 5.0]) == Rate(5.0, 2.0, 10.0)
