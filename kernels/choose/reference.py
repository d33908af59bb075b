"""The maxima of blocks, naively."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def block_maxima(logits: NDArray[np.float64], block: int) -> NDArray[np.float64]:
    """Rows `[rows, columns]` → the largest of every `block` columns, `[rows, blocks]`; NaN if one is."""
    starts = range(0, logits.shape[1], block)
    return np.stack([logits[:, start : start + block].max(axis=1) for start in starts], axis=1)
