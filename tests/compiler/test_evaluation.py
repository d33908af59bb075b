"""The mathematics of evaluation, on logits that are made up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from intaglio.compiler.errors import OptionError
from intaglio.compiler.evaluate import bootstrap, cut, log_softmax, score_afresh, score_window, summarise

VOCABULARY = 11


def logits(seed: int, rows: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, VOCABULARY)).astype(np.float32) * 3


def window(seed: int, size: int) -> list[int]:
    return np.random.default_rng(seed).integers(VOCABULARY, size=size).tolist()


def test_equal_logits_have_no_divergence() -> None:
    ours = logits(0, 70)
    found = summarise([score_window(window(0, 70), ours, ours.copy())])
    assert found.kl == 0
    assert found.top1_agreement == 1
    assert found.perplexity == found.reference_perplexity
    assert found.tokens == 69


def test_a_constant_added_to_all_logits_changes_nothing() -> None:
    ours = logits(0, 9)
    found = summarise([score_window(window(0, 9), ours + 1000, ours)])
    assert abs(found.kl) < 1e-6  # float32 logits near 1000 are exact to 6e-5


@pytest.mark.parametrize("size", [2, 64, 65, 130])
def test_against_the_formulas(size: int) -> None:
    ours, theirs, tokens = logits(1, size), logits(2, size), window(3, size)
    kl = loss = agreeing = 0.0
    for row in range(size - 1):
        p, q = (np.exp(one[row].astype(float)) for one in (theirs, ours))
        p, q = p / p.sum(), q / q.sum()
        kl += float((p * np.log(p / q)).sum())
        loss -= math.log(q[tokens[row + 1]])
        agreeing += p.argmax() == q.argmax()
    found = summarise([score_window(tokens, ours, theirs)])
    assert found.kl == pytest.approx(kl / (size - 1), rel=1e-9)
    assert found.perplexity == pytest.approx(math.exp(loss / (size - 1)), rel=1e-9)
    assert found.top1_agreement == pytest.approx(agreeing / (size - 1))


def test_uniform_predictions_have_the_vocabulary_as_perplexity() -> None:
    flat = np.zeros((20, VOCABULARY), np.float32)
    assert summarise([score_window(window(4, 20), flat, flat)]).perplexity == pytest.approx(VOCABULARY)


def test_huge_logits_do_not_overflow() -> None:
    wide = np.array([[3e38, -3e38, 0]], np.float32)
    np.testing.assert_array_equal(log_softmax(wide)[0, 0], 0)
    assert not np.isnan(log_softmax(wide)).any()


def test_windows_count_by_their_tokens() -> None:
    scores = [score_window(window(n, n), logits(n, n), logits(n + 1, n)) for n in (5, 40)]
    whole = summarise(scores)
    assert whole.kl == pytest.approx((scores[0].kl + scores[1].kl) / 43)
    assert whole.windows == 2


def test_logits_of_another_model_are_refused() -> None:
    with pytest.raises(OptionError, match="same model"):
        score_window(window(0, 5), logits(0, 5), logits(0, 5)[:, :-1])


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    """95 % nominal; for 30 windows the percentile bootstrap covers somewhat less (about 93 % of 400)."""
    random, hits = np.random.default_rng(1), 0
    for _ in range(400):
        low, high = bootstrap(random.normal(1.0, 0.5, size=30).tolist(), [1] * 30)
        hits += low <= 1.0 <= high
    assert 0.89 < hits / 400 < 0.98


def test_the_interval_is_the_same_every_time() -> None:
    values = np.random.default_rng(2).random(12).tolist()
    assert bootstrap(values, [3] * 12) == bootstrap(values, [3] * 12)
    low, high = bootstrap(values, [3] * 12)
    assert low < sum(values) / 36 < high


def test_windows_do_not_overlap_and_fit() -> None:
    for count in (32, 100, 1500, 5000):
        found = list(cut(range(count), 600))
        joined = [token for one in found for token in one]
        assert joined == list(range(len(joined)))
        assert count - len(joined) < len(found[0]) <= 512
    assert len(list(cut(range(5000), 600))) == 9
    assert max(map(len, cut(range(5000), 100))) == 100


@pytest.mark.parametrize("count", [0, 1, 31])
def test_too_short_a_text_is_refused(count: int) -> None:
    with pytest.raises(OptionError, match="too few"):
        list(cut(range(count), 600))


def test_every_window_is_scored_by_itself(scripted: Callable[..., Any]) -> None:
    session = scripted([], prompt=0)
    first = score_afresh(session, [1, 2, 3])
    score_afresh(session, [9, 9])
    np.testing.assert_array_equal(score_afresh(session, [1, 2, 3]), first)
