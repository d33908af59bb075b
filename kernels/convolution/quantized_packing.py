"""8-bit weights as the kernels read them, from weights as ONNX has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from intaglio.kernels.convolution.convolution import LANES, padded
from intaglio.kernels.convolution.packing import windows
from intaglio.kernels.convolution.quantized import QuantizedConvolution

Floats = NDArray[np.float32]


def pack_weight(kernel: QuantizedConvolution, codes: ArrayLike) -> NDArray[Any]:
    """The codes int8 `[outputs, inputs / groups, height, width]` in the kernel's order, flat.

    Depthwise: float32 `[height, width, channels rounded up to 16]`. Dense: int8, groups of `together` blocks
    of 16 output channels after one another, each `[height, width, window / 4, blocks, 16, 4]`.
    """
    shape, values = kernel.shape, np.asarray(codes, np.int8)
    if shape.depthwise:
        packed = np.zeros((*shape.kernel, padded(shape.outputs)), np.float32)
        packed[..., : shape.outputs] = values[:, 0].transpose(1, 2, 0)
        return packed.ravel()
    blocks = windows(shape, values)
    blocks = np.pad(blocks, ((0, 0), (0, -shape.window % 4), (0, 0), (0, 0), (0, 0)))
    fours = blocks.reshape(shape.blocks, -1, 4, *shape.kernel, LANES)
    groups = [fours[first : first + shape.together] for first in range(0, shape.blocks, shape.together)]
    return np.concatenate([one.transpose(3, 4, 1, 0, 5, 2).ravel() for one in groups])


def pack_bias(
    kernel: QuantizedConvolution, codes: ArrayLike, scale: ArrayLike, bias: ArrayLike
) -> NDArray[Any]:
    """The bias, integers in units of `scale` `[outputs]`, with what the input's zero would add taken off.

    Depthwise: in units of 1, float32.
    """
    shape = kernel.shape
    if shape.depthwise:
        packed = np.zeros(padded(shape.outputs), np.float32)
        packed[: shape.outputs] = np.asarray(bias, np.float64) * np.asarray(scale, np.float64)
        return packed
    sums = np.asarray(codes, np.int64).sum(axis=(1, 2, 3))
    start = np.zeros(padded(shape.outputs), np.int32)
    start[: shape.outputs] = np.asarray(bias, np.int64) - kernel.input_zero * sums
    return start


def pack_scale(kernel: QuantizedConvolution, scale: ArrayLike) -> Floats:
    """Scales of input times weight `[outputs]`, up to whole vectors."""
    packed = np.zeros(padded(kernel.shape.outputs), np.float32)
    packed[: kernel.shape.outputs] = np.asarray(scale, np.float32)
    return packed


def pack_outside(kernel: QuantizedConvolution, codes: ArrayLike) -> NDArray[np.int32]:
    """What a tap outside gives back of what `pack_bias` took off, `[taps, channels rounded up to 16]`."""
    shape = kernel.shape
    sums = np.asarray(codes, np.int64).sum(axis=1) * kernel.input_zero  # [outputs, height, width]
    packed = np.zeros((*shape.kernel, padded(shape.outputs)), np.int32)
    packed[..., : shape.outputs] = sums.transpose(1, 2, 0)
    return packed.reshape(-1, padded(shape.outputs))
