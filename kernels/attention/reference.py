"""Causal grouped-query attention, naively, in float64 (Vaswani et al. 2017; Ainslie et al. 2023)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from intaglio.kernels.rotary_embedding.reference import rotate

Array = NDArray[np.float64]


def causal_attention(
    q: Array,
    k: Array,
    v: Array,
    position: int,
    *,
    scale: float | None = None,
    softcap: float = 0.0,
    window: int = -1,
) -> Array:
    """Attend from tokens `position …` to all tokens up to themselves.

    Args:
        q: prepared queries `[heads, tokens, head_dim]`.
        k: prepared keys `[kv_heads, positions, head_dim]`, those of the new tokens included.
        v: values, as k.
        position: tokens in the cache before the first query.
        scale: of scores; None: 1/√head_dim.
        softcap: scores become softcap · tanh(scores / softcap); 0: they stay.
        window: how many positions before itself a token sees; -1: all.

    Returns:
        `[heads, tokens, head_dim]`.
    """
    heads, tokens, head_dim = q.shape
    repeat = heads // len(k)
    k, v = np.repeat(k, repeat, axis=0), np.repeat(v, repeat, axis=0)
    scores = q @ k.swapaxes(1, 2) * (head_dim**-0.5 if scale is None else scale)
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    distance = position + np.arange(tokens)[:, None] - np.arange(k.shape[1])[None]
    visible = (distance >= 0) & ((distance <= window) | (window < 0))
    scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    mixed: Array = weights / weights.sum(axis=2, keepdims=True) @ v
    return mixed


def prepare(
    x: Array,
    cosine: Array,
    sine: Array,
    *,
    weight: Array | None = None,
    epsilon: float = 0.0,
    interleaved: bool = False,
) -> Array:
    """Heads of queries or keys, RMS-normalised if there is a `weight` `[head_dim]`, and rotated.

    Args:
        x: `[heads, tokens, head_dim]`, bias included.
        cosine: `[tokens, rotated / 2]`: so many leading components are rotated; may be empty.
        sine: as cosine.
        weight: of the norm.
        epsilon: of the norm.
        interleaved: whether rotation pairs neighbours rather than halves.
    """
    if weight is not None:
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon) * weight
    size = 2 * cosine.shape[-1]
    order = np.argsort(np.arange(size) % 2, kind="stable") if interleaved else np.arange(size)
    rotated = rotate(x[..., order], cosine, sine)[..., np.argsort(order)]
    return np.concatenate([rotated, x[..., size:]], axis=-1)
