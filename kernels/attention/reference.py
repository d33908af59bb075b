"""Causal grouped-query attention, naively, in float64 (Vaswani et al. 2017; Ainslie et al. 2023)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def causal_attention(q: Array, k: Array, v: Array, position: int) -> Array:
    """Attend from tokens `position …` to all tokens up to themselves.

    Args:
        q: rotated queries `[heads, tokens, head_dim]`.
        k: rotated keys `[kv_heads, positions, head_dim]`, those of the new tokens included.
        v: values, as k.
        position: tokens in the cache before the first query.

    Returns:
        `[heads, tokens, head_dim]`.
    """
    heads, tokens, head_dim = q.shape
    repeat = heads // len(k)
    k, v = np.repeat(k, repeat, axis=0), np.repeat(v, repeat, axis=0)
    scores = q @ k.swapaxes(1, 2) / np.sqrt(head_dim)
    visible = np.arange(k.shape[1])[None] <= position + np.arange(tokens)[:, None]
    scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    mixed: Array = weights / weights.sum(axis=2, keepdims=True) @ v
    return mixed
