"""Rounding weights to codes. Scale and minimum become float16 first, so that codes fit what is stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from intaglio.passes.quantize.formats import WeightFormat

Float32 = NDArray[np.float32]
Float16 = NDArray[np.float16]
HALF_STEP = 2.0**-11  # relative rounding error of a float16
SMALLEST_STEP = 2.0**-25  # absolute rounding error of a float16 near zero


@dataclass(frozen=True)
class Rounded:
    """Codes `[rows, groups, group]`, scale and offset `[rows, groups]`, and how far the result may be off."""

    codes: NDArray[np.integer]
    scale: Float16
    offset: NDArray[np.generic] | None  # zero point (int16) or minimum (float16)
    values: Float32  # dequantised, like `codes`
    bound: Float32  # largest |error| that rounding allows, per group

    @property
    def is_finite(self) -> bool:
        """Whether float16 could hold the scales and minima, and the weights were numbers."""
        offset = np.isfinite(self.offset).all() if self.offset is not None else True
        return bool(np.isfinite(self.scale).all() and np.isfinite(self.values).all() and offset)


def round_block(weights: Float32, form: WeightFormat) -> Rounded:
    """Round float32 weights `[rows, groups, group]` to the nearest point of each group's grid."""
    with np.errstate(over="ignore", invalid="ignore"):  # `is_finite` tells
        if form.scheme == "symmetric":
            return _symmetric(weights, 2 ** (form.bits - 1) - 1)
        if form.scheme == "asymmetric":
            return _asymmetric(weights, 2**form.bits - 1)
        return _minimum(weights, 2**form.bits - 1)


def _symmetric(weights: Float32, largest: int) -> Rounded:
    """The better of two grids per group: `-largest … largest`, or one step more on the heavier side.

    The second has finer steps, but on the lighter side an outlier may be cut by up to one step. At 8 bits it
    gains nothing, and the code -128 has no opposite, which kernels that multiply magnitudes need.
    """
    even = _signed(weights, _scale(np.abs(weights).max(-1), largest), -largest, largest, 0.5)
    if largest == 127:
        return even
    heavy = np.take_along_axis(weights, np.abs(weights).argmax(-1)[..., None], -1)[..., 0]
    skewed = _signed(weights, _scale(heavy, -largest - 1), -largest - 1, largest, 1.0)
    better = _squared(skewed.values - weights) < _squared(even.values - weights)
    return Rounded(
        np.where(better[..., None], skewed.codes, even.codes),
        np.where(better, skewed.scale, even.scale),
        None,
        np.where(better[..., None], skewed.values, even.values),
        np.where(better, skewed.bound, even.bound),
    )


def _signed(weights: Float32, scale: Float16, low: int, high: int, steps: float) -> Rounded:
    wide = scale.astype(np.float32)
    codes = _codes(weights / _divisor(wide), low, high)
    allowed = np.abs(wide) * np.float32(steps + (high - low) * HALF_STEP)
    return Rounded(codes, scale, None, codes.astype(np.float32) * wide[..., None], allowed)


def _asymmetric(weights: Float32, levels: int) -> Rounded:
    low, high = np.minimum(weights.min(-1), 0), np.maximum(weights.max(-1), 0)
    scale = _scale(high - low, levels)
    wide = scale.astype(np.float32)
    zero = _codes(-low[..., None] / _divisor(wide), 0, levels)
    codes = _codes(weights / _divisor(wide) + zero, 0, levels)
    values = (codes - zero).astype(np.float32) * wide[..., None]
    return Rounded(codes, scale, zero[..., 0], values, wide * np.float32(0.5 + levels * HALF_STEP))


def _minimum(weights: Float32, levels: int) -> Rounded:
    low = weights.min(-1).astype(np.float16)
    base = low.astype(np.float32)
    scale = _scale(np.maximum(weights.max(-1) - base, 0), levels)
    wide = scale.astype(np.float32)
    codes = _codes((weights - base[..., None]) / _divisor(wide), 0, levels)
    values = codes.astype(np.float32) * wide[..., None] + base[..., None]
    bound = wide * np.float32(0.5 + levels * HALF_STEP) + np.abs(base) * np.float32(HALF_STEP)
    bound += np.float32(SMALLEST_STEP)
    return Rounded(codes, scale, low, values, bound)


def _scale(span: Float32, levels: int) -> Float16:
    """`span / levels` as float16; where that loses more than half a step (tiny weights), the next one up."""
    exact = span / np.float32(levels)
    scale = exact.astype(np.float16)
    short = np.abs(exact) > np.abs(scale.astype(np.float32)) * np.float32(1 + 2 * HALF_STEP)
    away = np.copysign(np.float16(np.inf), exact.astype(np.float16))
    return np.where(short, np.nextafter(scale, away), scale)


def _codes(numbers: Float32, low: int, high: int) -> NDArray[np.int16]:
    return np.clip(np.rint(numbers), low, high).astype(np.int16)


def _divisor(scale: Float32) -> Float32:
    # A group of zeros has scale 0 and codes 0.
    return np.where(scale == 0, np.float32(1), scale)[..., None].astype(np.float32)


def _squared(error: Float32) -> Float32:
    summed: Float32 = np.einsum("rgk,rgk->rg", error, error)
    return summed
