"""Rotary embedding, naively, in float64 (Su et al. 2021): halves rotated against each other, as GPT-NeoX."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def tables(positions: int, head_dim: int, base: float) -> tuple[Array, Array]:
    """Cosines and sines `[positions, head_dim / 2]`."""
    angles = np.arange(positions)[:, None] / base ** (np.arange(head_dim // 2) * 2 / head_dim)
    return np.cos(angles), np.sin(angles)


def rotate(x: Array, cosine: Array, sine: Array) -> Array:
    """`[..., tokens, head_dim]` with tables `[tokens, head_dim / 2]` → the same shape."""
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
