"""Choosing tokens: options, their order, and the distribution of what is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from intaglio.compiler.errors import ModelError, OptionError
from intaglio.compiler.sampling import Sampler, SamplingOptions, distribution, penalised

LOGITS = np.array([0.5, 3.0, -1.0, 2.5, 2.0, -4.0, 1.0], np.float32)


def probabilities(**options: Any) -> dict[int, float]:
    tokens = np.argsort(-LOGITS)
    chances = distribution(LOGITS[tokens], SamplingOptions(**options))
    return dict(zip(tokens.tolist(), chances.tolist(), strict=False))


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": "hot"},
        {"temperature": 1, "top_k": 0},
        {"temperature": 1, "top_k": 2.5},
        {"temperature": 1, "top_p": 0},
        {"temperature": 1, "top_p": 1.01},
        {"temperature": 1, "seed": -1},
        {"repetition_penalty": 0},
        {"repetition_penalty": True},
    ],
)
def test_bad_values_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=list(options)[-1]):
        SamplingOptions(**options)


def test_options_without_effect_are_refused_all_at_once() -> None:
    with pytest.raises(OptionError) as caught:
        SamplingOptions(top_k=3, top_p=0.5, seed=1)
    assert all(f"{name} has no effect" in str(caught.value) for name in ("top_k", "top_p", "seed"))


def test_greedy_takes_the_likeliest() -> None:
    assert Sampler(SamplingOptions()).choose(LOGITS) == 1


def test_temperature_divides_the_logits() -> None:
    found = probabilities(temperature=2.0)
    np.testing.assert_allclose([found[one] for one in range(len(LOGITS))], softmax(LOGITS / 2), rtol=1e-12)


def test_top_k_keeps_the_k_likeliest() -> None:
    found = probabilities(temperature=1.0, top_k=3)
    assert list(found) == [1, 3, 4]
    np.testing.assert_allclose(list(found.values()), softmax(LOGITS[[1, 3, 4]]), rtol=1e-12)


def test_top_k_beyond_the_vocabulary_keeps_all() -> None:
    assert probabilities(temperature=1.0, top_k=1000) == probabilities(temperature=1.0)


def test_top_p_keeps_the_fewest_that_reach_p() -> None:
    whole = softmax(LOGITS)
    just_two = float(whole[1] + whole[3])
    assert list(probabilities(temperature=1.0, top_p=just_two - 1e-9)) == [1, 3]
    assert list(probabilities(temperature=1.0, top_p=just_two + 1e-9)) == [1, 3, 4]
    assert list(probabilities(temperature=1.0, top_p=1e-6)) == [1]
    assert len(probabilities(temperature=1.0, top_p=1.0)) == len(LOGITS)


def test_top_k_comes_before_top_p() -> None:
    # Among the two likeliest alone, the first has 62 %: enough for p = 0.6, which it is not among all.
    assert list(probabilities(temperature=1.0, top_k=2, top_p=0.6)) == [1]
    assert len(probabilities(temperature=1.0, top_p=0.6)) == 2


def test_the_penalty_makes_seen_tokens_less_likely() -> None:
    changed = penalised(LOGITS, [1, 2], 2.0)
    np.testing.assert_array_equal(changed[[1, 2]], [1.5, -2.0])
    np.testing.assert_array_equal(np.delete(changed, [1, 2]), np.delete(LOGITS, [1, 2]))
    assert Sampler(SamplingOptions(repetition_penalty=2.0)).choose(LOGITS, [1, 1, 2]) == 3


def test_a_seed_repeats_the_choices() -> None:
    def draw(seed: int) -> list[int]:
        sampler = Sampler(SamplingOptions(temperature=1.5, seed=seed))
        return [sampler.choose(LOGITS) for _ in range(40)]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_refused(temperature: float, value: float) -> None:
    broken = LOGITS.copy()
    broken[4] = value
    with pytest.raises(ModelError, match="broken"):
        Sampler(SamplingOptions(temperature)).choose(broken)


def test_impossible_tokens_are_never_drawn() -> None:
    logits = np.full(50, -np.inf, np.float32)
    logits[[3, 44]] = 1.0
    sampler = Sampler(SamplingOptions(temperature=1.0, seed=0))
    assert {sampler.choose(logits) for _ in range(60)} == {3, 44}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"top_k": 4}, {"top_p": 0.9}, {"top_k": 5, "top_p": 0.8, "repetition_penalty": 1.3}]
)
def test_the_draws_follow_the_distribution(options: dict[str, Any]) -> None:
    """χ² of 20000 draws, at a level of one false alarm in 10000; seeded, so it either holds or does not."""
    chosen = SamplingOptions(temperature=0.8, seed=3, **options)
    sampler, draws, seen = Sampler(chosen), 20_000, [1, 4]
    counts = np.bincount([sampler.choose(LOGITS, seen) for _ in range(draws)], minlength=len(LOGITS))
    logits = penalised(LOGITS, seen, chosen.repetition_penalty)
    tokens = np.argsort(-logits)
    chances = distribution(logits[tokens], chosen)
    tokens = tokens[: len(chances)]
    expected = chances * draws
    statistic = ((counts[tokens] - expected) ** 2 / expected).sum()
    # Upper quantiles at 1e-4 of χ² with 1 … 6 degrees of freedom (tables of Pearson and Hartley).
    bounds = {1: 15.14, 2: 18.42, 3: 21.11, 4: 23.51, 5: 25.74, 6: 27.86}
    assert counts.sum() == counts[tokens].sum()
    assert statistic < bounds[len(tokens) - 1]
