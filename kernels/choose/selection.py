"""The likeliest tokens, found through the maxima of blocks; for whoever runs programs, and for samplers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 64  # logits per maximum: of 50000, two short rows are searched instead of a long one

Floats = NDArray[np.float32]


def likeliest(logits: Floats, count: int) -> NDArray[np.int64]:
    """Where the `count` largest of `logits` `[n]` are, the largest first; of equals the first.

    `count` is at least 1, at most n. What is no number counts as infinite, so that it is seen.
    """
    if count == 1:
        return np.array([int(logits.argmax())])
    values = np.where(np.isnan(logits), np.float32(np.inf), logits)
    least = np.partition(values, len(values) - count)[len(values) - count]
    larger, equal = np.flatnonzero(values > least), np.flatnonzero(values == least)
    larger = larger[np.argsort(-values[larger], kind="stable")]
    return np.concatenate([larger, equal[: count - len(larger)]])


def likeliest_by_blocks(logits: Floats, maxima: Floats, count: int) -> NDArray[np.int64]:
    """As `likeliest`, looking only where `maxima` `[blocks]` say that the largest are.

    All of the `count` likeliest lie in the `count` blocks of the largest maxima (of equals, the first ones):
    each of those blocks holds a token that comes before all tokens of other blocks.
    """
    blocks = likeliest(maxima, min(count, len(maxima)))
    tokens = (np.sort(blocks)[:, np.newaxis] * BLOCK + np.arange(BLOCK)).reshape(-1)
    tokens = tokens[tokens < len(logits)]
    if len(blocks) == count:  # as many tokens reach the least of the maxima
        tokens = tokens[~(logits[tokens] < maxima[blocks[-1]])]
    found: NDArray[np.int64] = tokens[likeliest(logits[tokens], count)]
    return found
