"""Convolutions, naively, in float64: every weight times the whole image, moved."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from intaglio.kernels.chain.reference import chain
from intaglio.kernels.convolution.convolution import Convolution

Array = NDArray[np.float64]


def convolution(
    kernel: Convolution, image: Array, weight: Array, bias: Array, operands: Sequence[Array] = ()
) -> Array:
    """The result `[batch, height, width, outputs]` of `image` `[batch, height, width, inputs]`.

    The weight is `[outputs, inputs / groups, height, width]`, for transposed convolutions
    `[inputs, outputs / groups, height, width]`; operands are like the result, or `[batch, 1, 1, outputs]`.
    """
    sums = _transposed(kernel, image, weight) if kernel.transposed else _ordinary(kernel, image, weight)
    return chain(kernel.chain, sums + bias, operands)


def _ordinary(kernel: Convolution, image: Array, weight: Array) -> Array:
    top, left, bottom, right = kernel.pads
    image = np.pad(image, ((0, 0), (top, bottom), (left, right), (0, 0)))
    height, width = kernel.result_size
    total = np.zeros((kernel.batch, height, width, kernel.outputs))
    for y in range(kernel.kernel[0]):
        for x in range(kernel.kernel[1]):
            rows = y * kernel.dilations[0] + kernel.strides[0] * np.arange(height)
            columns = x * kernel.dilations[1] + kernel.strides[1] * np.arange(width)
            total += _grouped(kernel, image[:, rows][:, :, columns], weight[:, :, y, x])
    return total


def _grouped(kernel: Convolution, pixels: Array, weight: Array) -> Array:
    """Pixels `[batch, height, width, inputs]` times the weight `[outputs, inputs / groups]`."""
    inputs = np.split(pixels, kernel.groups, axis=-1)
    weights = np.split(weight, kernel.groups, axis=0)
    return np.concatenate([x @ w.T for x, w in zip(inputs, weights, strict=True)], axis=-1)


def _transposed(kernel: Convolution, image: Array, weight: Array) -> Array:
    height, width = kernel.result_size
    reach = [(kernel.size[i] - 1) * kernel.strides[i] + 1 for i in range(2)]
    taps = [kernel.dilations[i] * (kernel.kernel[i] - 1) for i in range(2)]
    more = [kernel.output_padding[i] + reach[i] + taps[i] for i in range(2)]
    total = np.zeros((kernel.batch, *more, kernel.outputs))
    for y in range(kernel.kernel[0]):
        for x in range(kernel.kernel[1]):
            top, left = y * kernel.dilations[0], x * kernel.dilations[1]
            rows = slice(top, top + reach[0], kernel.strides[0])
            columns = slice(left, left + reach[1], kernel.strides[1])
            weights = np.split(weight[:, :, y, x], kernel.groups, axis=0)
            swapped = np.concatenate([one.T for one in weights], axis=0)
            total[:, rows, columns] += _grouped(kernel, image, swapped)
    top, left = kernel.pads[:2]
    return total[:, top : top + height, left : left + width]
