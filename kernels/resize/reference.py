"""Resizings, naively, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from intaglio.kernels.chain.reference import chain
from intaglio.kernels.resize.resize import Resize

Array = NDArray[np.float64]


def resize(
    kernel: Resize, image: Array, tables: Sequence[NDArray[np.generic]], operands: Sequence[Array] = ()
) -> Array:
    """`[batch, height, width, channels]` → `[batch, height', width', channels]`.

    Tables: rows and columns, for "linear" with their parts after them; operands as for convolutions.
    """
    rows, columns = (np.asarray(one, np.int64) for one in tables[:2])
    if kernel.mode == "nearest":
        return chain(kernel.chain, image[:, rows][:, :, columns], operands)
    down = np.asarray(tables[2], np.float64)[:, np.newaxis, np.newaxis]
    across = np.asarray(tables[3], np.float64)[:, np.newaxis]
    lines = image[:, rows[:, 0]] * (1 - down) + image[:, rows[:, 1]] * down
    return chain(
        kernel.chain,
        lines[:, :, columns[:, 0]] * (1 - across) + lines[:, :, columns[:, 1]] * across,
        operands,
    )
