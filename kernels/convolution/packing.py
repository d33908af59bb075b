"""Weights as the kernels read them, from weights as ONNX has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from intaglio.kernels.convolution.convolution import LANES, Convolution, padded

Floats = NDArray[np.float32]


def pack_weight(kernel: Convolution, weight: ArrayLike) -> Floats:
    """The weight `[outputs, inputs / groups, height, width]` (transposed convolutions: `[inputs, outputs /
    groups, height, width]`) in the kernel's order, flat.

    Depthwise: `[height, width, channels rounded up to 16]`. Dense: groups of `together` blocks of 16 output
    channels after one another, each `[height, width, window, blocks, 16]`.
    """
    values = by_output(kernel, np.asarray(weight, np.float32))
    if kernel.depthwise:
        packed = np.zeros((*kernel.kernel, padded(kernel.outputs)), np.float32)
        packed[..., : kernel.outputs] = values[:, 0].transpose(1, 2, 0)
        return packed.ravel()
    blocks = windows(kernel, values)
    groups = [blocks[first : first + kernel.together] for first in range(0, len(blocks), kernel.together)]
    return np.concatenate([one.transpose(2, 3, 1, 0, 4).ravel() for one in groups])


def pack_bias(kernel: Convolution, bias: ArrayLike | None) -> Floats:
    """The bias `[outputs]`, or zeros for `None`, up to whole vectors."""
    packed = np.zeros(padded(kernel.outputs), np.float32)
    if bias is not None:
        packed[: kernel.outputs] = np.asarray(bias, np.float32)
    return packed


def by_output(kernel: Convolution, weight: Floats) -> Floats:
    """The weight `[outputs, inputs / groups, height, width]`, of transposed convolutions as well."""
    if not kernel.transposed:
        return weight
    inputs, outputs = kernel.inputs // kernel.groups, kernel.outputs // kernel.groups
    grouped = weight.reshape(kernel.groups, inputs, outputs, *kernel.kernel)
    return grouped.swapaxes(1, 2).reshape(kernel.outputs, inputs, *kernel.kernel)


def windows(kernel: Convolution, weight: NDArray[Any]) -> NDArray[Any]:
    """`[blocks, window, height, width, 16]`: zero where an input of the window is of another group."""
    found = np.zeros((kernel.blocks, kernel.window, *kernel.kernel, LANES), weight.dtype)
    inputs, outputs = kernel.inputs // kernel.groups, kernel.outputs // kernel.groups
    for channel in range(kernel.outputs):
        block, lane = divmod(channel, LANES)
        start = channel // outputs * inputs - kernel.window_start(block)
        found[block, start : start + inputs, :, :, lane] = weight[channel]
    return found
