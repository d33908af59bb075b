"""RMSNorm, naively, in float64 (Zhang and Sennrich 2019, equation 4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def rms_norm(x: Array, weight: Array, epsilon: float) -> Array:
    """`[tokens, columns]` → the same shape: `x / √(mean x² + epsilon) · weight`."""
    result: Array = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + epsilon) * weight
    return result
