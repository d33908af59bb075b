"""Attention over whole sequences in numpy, float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def whole_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    scale: float,
    mask: ArrayLike | None = None,
    causal: bool = False,
) -> NDArray[np.float64]:
    """Of `[sequences, heads, rows, columns]`; a boolean mask is true where a key is seen, others are sums."""
    q, k, v = (np.asarray(one, np.float64) for one in (query, key, value))
    shared = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, shared, axis=1), np.repeat(v, shared, axis=1)
    scores = scale * q @ k.swapaxes(-1, -2)
    if mask is not None:
        found = np.asarray(mask)
        scores = np.where(found, scores, -3e38) if found.dtype == bool else np.maximum(scores + found, -3e38)
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:]) > 0, scores, -3e38)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True) @ v)
