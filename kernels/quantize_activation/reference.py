"""Symmetric int8 quantisation per group, naively; float32 because the codes depend on its roundings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def quantize_activation(x: Array, group: int) -> tuple[NDArray[np.int8], Array, NDArray[np.int32]]:
    """`[tokens, columns]` → codes of the same shape, scales and sums of codes `[tokens, columns / group]`."""
    groups = x.astype(np.float32).reshape(len(x), -1, group)
    largest = np.abs(groups).max(axis=2)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    codes = np.rint(groups * inverse[:, :, None]).astype(np.int8)
    return (
        codes.reshape(x.shape),
        largest * np.float32(1 / 127),
        codes.astype(np.int32).sum(axis=2, dtype=np.int32),
    )


def dequantize_activation(codes: NDArray[np.int8], scales: Array) -> NDArray[np.float64]:
    """What the codes stand for, float64 `[tokens, columns]`."""
    groups = codes.reshape(len(codes), scales.shape[1], -1).astype(np.float64)
    return (groups * scales[:, :, None]).reshape(codes.shape)
