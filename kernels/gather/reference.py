"""Rows of a table in numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def gather_rows(table: ArrayLike, index: ArrayLike) -> NDArray[np.float64]:
    """`table[index]`; indices beyond it take its first or last row."""
    rows = np.asarray(table, np.float64)
    chosen = np.asarray(index)
    chosen = np.where(chosen < 0, chosen + len(rows), chosen)
    return np.asarray(rows[np.clip(chosen, 0, len(rows) - 1)])
