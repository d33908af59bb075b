"""Convolutions of 8-bit images, naively: integers, then float64, rounded as ONNX's QuantizeLinear does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intaglio.kernels.chain.reference import chain
from intaglio.kernels.convolution.quantized import QuantizedConvolution
from intaglio.kernels.convolution.reference import convolution

Array = NDArray[np.float64]


def quantized_convolution(
    kernel: QuantizedConvolution,
    image: NDArray[np.uint8],
    codes: NDArray[np.int8],
    scale: Array,
    bias: NDArray[Any],
    operands: Sequence[Array] = (),
) -> Array:
    """The result `[batch, height, width, outputs]` before it is rounded to 8 bits, of which see `rounded`.

    `image` is `[batch, height, width, inputs]`, `codes` as in ONNX, `bias` integers in units of `scale`.
    """
    values = image.astype(np.float64) - kernel.input_zero
    sums = convolution(kernel.bare, values, codes.astype(np.float64), np.asarray(bias, np.float64))
    return chain(kernel.shape.chain, sums * scale, operands)


def rounded(kernel: QuantizedConvolution, values: Array) -> NDArray[np.uint8]:
    """To the result's 8 bits."""
    codes = np.rint(values / kernel.result_scale) + kernel.result_zero
    return np.asarray(np.clip(codes, 0, 255), np.uint8)
