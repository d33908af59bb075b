"""Transposed convolutions whose windows do not overlap, as pointwise ones whose channels are then moved.

With strides equal to the kernel, `result[y · s + v, x · t + u, o] = Σ weight[i, o, v, u] · input[y, x, i]`: a
pointwise convolution to channels `(v, u, o)`, and a movement. For few channels that fills vectors better, and
the input is read once.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from intaglio.kernels.chain.steps import operands_of
from intaglio.kernels.convolution.convolution import Convolution, padded
from intaglio.kernels.movement.movement import MovedAxis, Movement

Floats = NDArray[np.float32]


def pays(kernel: Convolution) -> bool:
    """Whether `kernel` can be taken apart so, and vectors are filled better then."""
    separate = kernel.kernel == kernel.strides and kernel.dilations == (1, 1)
    whole = kernel.pads == (0, 0, 0, 0) and kernel.output_padding == (0, 0) and kernel.groups == 1
    places = kernel.kernel[0] * kernel.kernel[1]
    fuller = padded(places * kernel.outputs) < places * padded(kernel.outputs)
    return kernel.transposed and separate and whole and fuller and not operands_of(kernel.chain)


def pointwise(kernel: Convolution) -> Convolution:
    """The first part; its result is `[batch, height, width, (v, u, o)]`."""
    outputs = kernel.kernel[0] * kernel.kernel[1] * kernel.outputs
    ones = (1, 1)
    return dataclasses.replace(
        kernel, outputs=outputs, kernel=ones, strides=ones, transposed=False, result_stride=0, result_offset=0
    )


def pointwise_weight(kernel: Convolution, weight: ArrayLike) -> Floats:
    """Its weight `[(v, u, o), inputs, 1, 1]`, of the weight `[inputs, outputs, height, width]`."""
    values = np.asarray(weight, np.float32).transpose(2, 3, 1, 0)
    return np.ascontiguousarray(values.reshape(-1, kernel.inputs, 1, 1))


def pointwise_bias(kernel: Convolution, bias: ArrayLike) -> Floats:
    """Its bias `[(v, u, o)]`."""
    return np.tile(np.asarray(bias, np.float32), kernel.kernel[0] * kernel.kernel[1])


def movement(kernel: Convolution, *, plain: bool) -> Movement:
    """The second part: to `[batch, outputs, height', width']`, or to `kernel`'s channels-last result."""
    (height, width), (down, across), outputs = kernel.size, kernel.kernel, kernel.outputs
    rows, columns = kernel.result_size
    source = padded(down * across * outputs)
    pixel, channel = (1, rows * columns) if plain else (kernel.result_pixel, 1)
    image = rows * columns * (outputs if plain else pixel)
    more = 0 if plain else padded(outputs) - outputs
    axes = (
        MovedAxis(kernel.batch, height * width * source, image),
        MovedAxis(height, width * source, down * columns * pixel),
        MovedAxis(down, across * outputs, columns * pixel),
        MovedAxis(width, source, across * pixel),
        MovedAxis(across, outputs, pixel),
        MovedAxis(outputs + more, 1, channel, after=more),
    )
    return Movement("float32", axes, result_offset=0 if plain else kernel.result_offset)
