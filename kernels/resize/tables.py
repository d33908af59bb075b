"""Which pixels of an axis a resized one is made of, by ONNX's names (operator Resize, version 19)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from intaglio.compiler.errors import CodegenError

Integers = NDArray[np.int32]
Floats = NDArray[np.float32]


def coordinates(extent: int, result: int, scale: float, transformation: str) -> Floats:
    """Where the pixels of the result lie in the input; `scale` is the result's extent over the input's.

    In float32, as onnxruntime computes them: whatever lies between two pixels is rounded alike.

    Raises:
        CodegenError: for a transformation that is not known.
    """
    place, factor, half = np.arange(result, dtype=np.float32), np.float32(scale), np.float32(0.5)
    if transformation == "asymmetric":
        return place / factor
    if transformation == "align_corners":
        return place * np.float32(extent - 1) / np.float32(max(1, result - 1))
    if transformation == "half_pixel" or (transformation == "pytorch_half_pixel" and result > 1):
        return (place + half) / factor - half
    if transformation == "pytorch_half_pixel":
        return np.zeros(1, np.float32)
    raise CodegenError(f"resize: there is no transformation {transformation!r}; please report this")


def nearest(extent: int, places: Floats, rounding: str) -> Integers:
    """The pixels `[result]` next to `places`, by ONNX's `nearest_mode`.

    Raises:
        CodegenError: for a rounding that is not known.
    """
    half = np.float32(0.5)
    if rounding == "floor":
        found = np.floor(places)
    elif rounding == "ceil":
        found = np.ceil(places)
    elif rounding == "round_prefer_floor":
        found = np.ceil(places - half)
    elif rounding == "round_prefer_ceil":
        found = np.floor(places + half)
    else:
        raise CodegenError(f"resize: there is no rounding {rounding!r}; please report this")
    return np.clip(found, 0, extent - 1).astype(np.int32)


def linear(extent: int, places: Floats) -> tuple[Integers, Floats]:
    """The pixels `[result, 2]` around `places`, and the second one's share `[result]`; ends are repeated."""
    places = np.clip(places, 0, extent - 1)
    first = np.floor(places)
    pairs = np.stack([first, np.minimum(first + 1, extent - 1)], axis=1)
    return pairs.astype(np.int32), (places - first).astype(np.float32)
