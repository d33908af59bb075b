"""Movements between dense row-major tensors, and between these and channels-last images."""

from __future__ import annotations

import math
from collections.abc import Sequence

from intaglio.kernels.movement.movement import MovedAxis, Movement

LANES = 16  # channels are padded to multiples of this


def strides_of(shape: Sequence[int]) -> list[int]:
    """Of a dense row-major tensor, in elements."""
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def permuted(element: str, shape: Sequence[int], order: Sequence[int]) -> Movement:
    """ONNX Transpose: result axis i is source axis `order[i]`."""
    source = strides_of(shape)
    extents = [shape[axis] for axis in order]
    axes = zip(extents, (source[axis] for axis in order), strides_of(extents), strict=True)
    return Movement(element, tuple(MovedAxis(*axis) for axis in axes))


def expanded(element: str, shape: Sequence[int], target: Sequence[int]) -> Movement:
    """ONNX Expand: axes of extent 1, and those that are missing in front, are repeated."""
    shape = [1] * (len(target) - len(shape)) + list(shape)
    source = [0 if one == 1 else stride for one, stride in zip(shape, strides_of(shape), strict=True)]
    axes = zip(target, source, strides_of(target), strict=True)
    return Movement(element, tuple(MovedAxis(*axis) for axis in axes))


def sliced(
    element: str, shape: Sequence[int], starts: Sequence[int], steps: Sequence[int], extents: Sequence[int]
) -> Movement:
    """ONNX Slice: index i of an axis reads `start + i · step`; one entry for every axis."""
    strides = strides_of(shape)
    source = [stride * step for stride, step in zip(strides, steps, strict=True)]
    offset = sum(start * stride for start, stride in zip(starts, strides, strict=True))
    axes = zip(extents, source, strides_of(extents), strict=True)
    return Movement(element, tuple(MovedAxis(*axis) for axis in axes), source_offset=offset)


def joined(element: str, shape: Sequence[int], target: Sequence[int], axis: int, first: int) -> Movement:
    """One part of ONNX Concat: `shape` goes into `target` from index `first` of `axis` on."""
    strides = strides_of(target)
    axes = zip(shape, strides_of(shape), strides, strict=True)
    moved = tuple(MovedAxis(*one) for one in axes)
    return Movement(element, moved, result_offset=first * strides[axis])


def padded(
    element: str, shape: Sequence[int], before: Sequence[int], after: Sequence[int], fill: float
) -> Movement:
    """ONNX Pad with a constant; negative paddings cut."""
    cut = [max(0, -one) for one in before]
    before = [max(0, one) for one in before]
    target = [
        extent - less + more + end for extent, less, more, end in zip(shape, cut, before, after, strict=True)
    ]
    source = strides_of(shape)
    offset = sum(one * stride for one, stride in zip(cut, source, strict=True))
    ends = [max(0, one) for one in after]
    axes = zip(target, source, strides_of(target), before, ends, strict=True)
    return Movement(element, tuple(MovedAxis(*axis) for axis in axes), source_offset=offset, fill=fill)


def to_channels_last(shape: Sequence[int], element: str = "float32") -> Movement:
    """`[batch, channels, spatial …]` to `[batch, spatial …, channels rounded up to 16]`, padding zero."""
    batch, channels, *spatial = shape
    pixels, stride = math.prod(spatial), -(-channels // LANES) * LANES
    return Movement(
        element,
        (
            MovedAxis(batch, channels * pixels, pixels * stride),
            MovedAxis(pixels, 1, stride),
            MovedAxis(stride, pixels, 1, after=stride - channels),
        ),
    )


def to_plain(shape: Sequence[int], element: str = "float32") -> Movement:
    """`[batch, spatial …, channels rounded up to 16]` to `shape`, `[batch, channels, spatial …]`."""
    batch, channels, *spatial = shape
    pixels, stride = math.prod(spatial), -(-channels // LANES) * LANES
    return Movement(
        element,
        (
            MovedAxis(batch, pixels * stride, channels * pixels),
            MovedAxis(channels, 1, pixels),
            MovedAxis(pixels, stride, 1),
        ),
    )


def joined_channels(channels: Sequence[int], part: int, pixels: int, element: str = "float32") -> Movement:
    """Part number `part` of a concatenation along the channels of channels-last images.

    `pixels` counts those of all images; the last part also writes the padding. A part of a multiple of 16
    channels at such a place could have been written there at once.
    """
    stride = -(-sum(channels) // LANES) * LANES
    source = -(-channels[part] // LANES) * LANES
    after = stride - sum(channels) if part == len(channels) - 1 else 0
    axes = (MovedAxis(pixels, source, stride), MovedAxis(channels[part] + after, 1, 1, after=after))
    return Movement(element, axes, result_offset=sum(channels[:part]))
