"""Calibration: histograms, ranges, the inputs that are taken, and the gate's intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from intaglio.compiler.calibration import RANGE_METHODS, CalibrationInputs, Histogram, choose_range
from intaglio.compiler.errors import OptionError
from intaglio.compiler.graph_ports import GraphPort, GraphPorts
from intaglio.compiler.graph_quality import GraphQuality, cosine, interval, judge

RANDOM = np.random.default_rng(9)
PORTS = GraphPorts({"x": GraphPort("float32", (1, 3)), "n": GraphPort("int64", ())}, {})


def call() -> dict[str, np.ndarray]:
    return {"x": RANDOM.standard_normal((1, 3)).astype(np.float32), "n": np.array(2)}


def histogram(*pieces: Any) -> Histogram:
    found = Histogram()
    for one in pieces:
        found.add(np.asarray(one, np.float32))
    return found


def test_pieces_count_as_the_whole_does() -> None:
    numbers = RANDOM.standard_normal(5000).astype(np.float32) * np.linspace(0.01, 9, 5000, dtype=np.float32)
    found = histogram(*np.array_split(numbers, 7))
    assert found.counts.sum() == 5000
    assert (found.low, found.high) == (numbers.min(), numbers.max())
    assert found.counts @ found.centres / 5000 == pytest.approx(numbers.mean(), abs=found.limit / 2048)


def test_zeros_nothing_and_infinities() -> None:
    assert not histogram().is_known
    assert not histogram([]).is_known
    assert not histogram([1.0], [np.inf]).is_known
    zeros = histogram([0.0, 0.0])
    for method in RANGE_METHODS:
        assert (choose_range(zeros, method).low, choose_range(zeros, method).high) == (0.0, 0.0)
        assert not choose_range(histogram([np.nan]), method).is_finite


@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
def test_outliers_are_cut_off_except_by_min_max(method: Any) -> None:
    seen = histogram(RANDOM.standard_normal(200_000), [40.0, -40.0])
    cut = choose_range(seen, method)
    assert 2 < cut.high < 30
    assert choose_range(seen, "min-max").high == 40
    assert cut.low < 0


def test_no_method_leaves_zero_out() -> None:
    seen = histogram(RANDOM.uniform(5, 6, 10_000))
    for method in RANGE_METHODS:
        assert choose_range(seen, method).low == 0


def test_mean_squared_error_is_the_least() -> None:
    numbers = RANDOM.standard_t(3, 50_000)
    seen, found = histogram(numbers), {}
    for method in RANGE_METHODS:
        grid = choose_range(seen, method)
        codes = np.clip(np.rint(numbers / float(grid.scale)) + int(grid.zero_point), 0, 255)
        found[method] = np.square((codes - int(grid.zero_point)) * float(grid.scale) - numbers).mean()
    assert found["mse"] <= 1.02 * min(found.values())


def test_every_third_input_is_held_out() -> None:
    inputs = CalibrationInputs.of(PORTS, iter([call() for _ in range(9)]))
    assert (len(inputs.seen), len(inputs.held_out)) == (6, 3)
    assert not inputs.made


def test_tuples_count_by_their_order() -> None:
    inputs = CalibrationInputs.of(PORTS, [tuple(call().values()) for _ in range(8)])
    assert set(inputs.calls[0]) == {"x", "n"}


def test_inputs_left_out_are_made_and_said_to_be() -> None:
    inputs = CalibrationInputs.of(PORTS, None, [call()])
    assert inputs.made
    assert "none were given" in str(inputs)
    assert not np.array_equal(inputs.calls[0]["x"], inputs.calls[1]["x"])
    assert inputs.calls[0]["n"] == 2


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([call() for _ in range(7)], "give at least 8"),
        ([{"x": np.zeros((2, 3), np.float32)}] * 8, "input 7"),
        ([(np.zeros(3),)] * 8, "1 arrays for 2 inputs"),
        (call(), "several inputs"),
        (5, "several inputs"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(given: Any, told: str) -> None:
    with pytest.raises(OptionError, match=told):
        CalibrationInputs.of(PORTS, given)


def quality(wanted: Any, found: Any) -> GraphQuality:
    return judge([{"y": one} for one in wanted], [{"y": one} for one in found])


def test_equal_outputs_pass_and_noise_does_not() -> None:
    wanted = [RANDOM.standard_normal((1, 40)) for _ in range(6)]
    assert quality(wanted, wanted).passes
    noisy = [one + RANDOM.standard_normal(one.shape) * 0.2 for one in wanted]
    assert not quality(wanted, noisy).passes
    assert quality(wanted, noisy).outputs[0].measure == "cosine"
    assert not quality(wanted[:1], wanted[:1]).passes, "one input says nothing about others"


def test_an_interval_counts_not_the_mean() -> None:
    wanted = [np.eye(1, 40)] * 8
    tilted = [*wanted[1:], np.eye(1, 40) + 0.02 * np.eye(1, 40, 1) * 9]
    found = quality(wanted, tilted)
    assert found.mean_loss < 0.005 < found.loss


def test_distributions_of_many_rows_are_compared_by_their_largest() -> None:
    rows = RANDOM.dirichlet(np.ones(5), 400)
    wanted = [rows, rows[::-1].copy()]
    sharper = [one**2 / (one**2).sum(-1, keepdims=True) for one in wanted]
    found = quality(wanted, sharper)
    assert found.outputs[0].measure == "top-1"
    assert found.passes
    assert found.loss == pytest.approx(3 / 800), "never surer than so many rows allow"
    swapped = [one[:, ::-1].copy() for one in wanted]
    assert not quality(wanted, swapped).passes


def test_small_outputs_are_taken_together() -> None:
    wanted = [np.array([one]) for one in (0.9, 0.1, 0.5, 0.7)]
    wrong = [np.array([one]) for one in (0.1, 0.9, 0.5, 0.7)]
    assert quality(wanted, wrong).outputs[0].mean < 0.8, "each alone would have cosine 1"
    assert quality(wanted, wanted).passes


def test_cosines_of_odd_vectors() -> None:
    zero, one = np.zeros(3), np.ones(3)
    assert cosine(zero, zero) == cosine(one, 2 * one) == 1
    assert cosine(zero, one) == 0
    assert cosine(one, np.array([1, np.nan, 1])) == 0


def test_student_interval() -> None:
    mean, low, high = interval([0.1, 0.2, 0.3, 0.4])
    assert mean == pytest.approx(0.25)
    assert high - mean == pytest.approx(mean - low) == pytest.approx(3.18 * 0.1290994 / 2, rel=1e-3)
    assert interval([0.5])[1] == -1
