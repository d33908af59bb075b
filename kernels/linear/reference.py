"""y = x Wᵀ, naively, in float64: what every kernel in this folder must compute."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def dequantize(codes: NDArray[np.integer], scale: Array, minimum: Array | None, offset: int) -> Array:
    """`[rows, columns]` codes with `[rows, groups]` scales (and minima) → float64 `[rows, columns]`."""
    rows, columns = codes.shape
    groups = scale.shape[1]
    values = (codes.astype(np.float64) - offset).reshape(rows, groups, columns // groups) * scale[:, :, None]
    if minimum is not None:
        values = values + minimum[:, :, None]
    return values.reshape(rows, columns)


def requantize(weight: Array, ends: Array) -> Array:
    """`[rows, columns]` weights on an 8-bit grid per row that ends at `ends` `[rows]` (0: a row of zeros)."""
    scale = np.where(ends > 0, ends / 127, 1.0)[:, None]
    rounded: Array = np.rint(weight / scale) * scale
    return rounded


def linear(x: Array, weight: Array) -> Array:
    """`[tokens, columns]` × `[rows, columns]` → `[tokens, rows]`."""
    return x @ weight.T


def linear_gated(x: Array, weight: Array, epilogue: str) -> Array:
    """The two halves of the rows as gate and up: act(gate) · up, `[tokens, rows / 2]`."""
    gate, up = np.split(linear(x, weight), 2, axis=1)
    result: Array = _ACTIVATIONS[epilogue](gate) * up
    return result


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "swiglu": lambda gate: gate / (1 + np.exp(-gate)),
    "geglu_erf": lambda gate: gate / 2 * (1 + np.vectorize(math.erf)(gate / math.sqrt(2))),
    "geglu_tanh": lambda gate: gate / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3))),
}
