"""From a histogram to the range that 8 bits shall cover."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from intaglio.compiler.calibration.histogram import Histogram
from intaglio.passes.quantize.static import ValueRange

RangeMethod = Literal["min-max", "percentile", "mse", "entropy"]
RANGE_METHODS: tuple[RangeMethod, ...] = ("min-max", "percentile", "mse", "entropy")
TAIL = 1e-4  # of all numbers that a percentile leaves out on either side
SHARES = np.linspace(1.0, 0.2, 41)  # of the whole range that are tried
LEVELS = 256
Counts = NDArray[np.float64]


def choose_range(seen: Histogram, method: RangeMethod) -> ValueRange:
    """The range by `method`:

    - `min-max`: everything seen;
    - `percentile`: all but one in ten thousand at either end;
    - `mse`: the share of the whole range with the least mean squared error of rounding and cutting off;
    - `entropy`: the share that loses the least information (Kullback-Leibler divergence of the rounded
      distribution from the one seen; Migacz, "8-bit inference with TensorRT", 2017).
    """
    if not seen.is_known:
        return ValueRange(seen.low, seen.high)
    whole = ValueRange(min(seen.low, 0.0), max(seen.high, 0.0))
    if method == "min-max" or seen.limit == 0:
        return whole
    if method == "percentile":
        return _percentile(seen, whole)
    loss = _squared_error if method == "mse" else _lost_information
    tried = [ValueRange(whole.low * share, whole.high * share) for share in SHARES]
    counts, centres = seen.counts.astype(np.float64), seen.centres
    losses = [loss(counts, centres, one) for one in tried]
    return tried[int(np.argmin(losses))]


def _percentile(seen: Histogram, whole: ValueRange) -> ValueRange:
    below = np.cumsum(seen.counts) / seen.counts.sum()
    low = float(seen.centres[np.searchsorted(below, TAIL)])
    high = float(seen.centres[np.searchsorted(below, 1 - TAIL)])
    return ValueRange(max(whole.low, min(low, 0.0)), min(whole.high, max(high, 0.0)))


def _codes(centres: Counts, covered: ValueRange) -> Counts:
    codes = np.rint(centres / float(covered.scale)) + int(covered.zero_point)
    clipped: Counts = np.clip(codes, 0, LEVELS - 1)
    return clipped


def _squared_error(counts: Counts, centres: Counts, covered: ValueRange) -> float:
    values = (_codes(centres, covered) - int(covered.zero_point)) * float(covered.scale)
    return float(counts @ np.square(values - centres))


def _lost_information(counts: Counts, centres: Counts, covered: ValueRange) -> float:
    """Each code's mass spread evenly over the bins that it stands for, against what was seen of them.

    What is cut off counts as seen at the ends, but the codes there know only of what lies inside.
    """
    inside = (centres >= covered.low) & (centres <= covered.high)
    if not inside.any():
        return np.inf
    seen = np.where(inside, counts, 0.0)
    codes = _codes(centres, covered).astype(np.int64)
    filled = seen > 0
    mass = np.bincount(codes, seen, LEVELS)
    bins = np.bincount(codes, filled, LEVELS)
    spread = np.where(filled, (mass / np.maximum(bins, 1))[codes], 0.0)
    ends = np.flatnonzero(inside)[[0, -1]]
    full = seen.copy()
    full[ends] += [counts[: ends[0]].sum(), counts[ends[1] + 1 :].sum()]
    return _divergence(full, spread)


def _divergence(seen: Counts, rounded: Counts) -> float:
    first, second = seen / seen.sum(), rounded / max(rounded.sum(), 1e-30)
    used = first > 0
    return float(np.sum(first[used] * np.log(first[used] / np.maximum(second[used], 1e-12))))
