"""Embedding, naively."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def embedding(tokens: NDArray[np.integer], table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Token ids `[tokens]` and a table `[vocabulary, columns]` → `[tokens, columns]`."""
    rows: NDArray[np.float64] = table[tokens]
    return rows
