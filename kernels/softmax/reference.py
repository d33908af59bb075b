"""Softmax, naively, in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from intaglio.kernels.softmax.softmax import Softmax

Array = NDArray[np.float64]


def softmax(kernel: Softmax, source: Array) -> Array:
    """`[outer, row]` → `[outer, extent, inner]`."""
    values = source[:, : kernel.extent * kernel.inner].reshape(kernel.outer, kernel.extent, kernel.inner)
    values = values - values.max(axis=1, keepdims=True)
    total = np.exp(values).sum(axis=1, keepdims=True)
    return np.asarray(values - np.log(total) if kernel.logarithm else np.exp(values) / total, np.float64)
