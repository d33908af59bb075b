"""Poolings, naively, in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from intaglio.kernels.pooling.pooling import Pooling

Array = NDArray[np.float64]


def pooling(kernel: Pooling, image: Array) -> Array:
    """`[batch, height, width, channels]` → `[batch, height', width', channels]`."""
    height, width = kernel.result_size
    result = np.empty((kernel.batch, height, width, kernel.channels))
    for y in range(height):
        for x in range(width):
            rows, row_count = _window(kernel, 0, y)
            columns, column_count = _window(kernel, 1, x)
            window = image[:, rows][:, :, columns]
            if kernel.mode == "max":
                result[:, y, x] = window.max(axis=(1, 2))
            else:
                result[:, y, x] = window.sum(axis=(1, 2)) / (row_count * column_count)
    return result


def _window(kernel: Pooling, axis: int, output: int) -> tuple[list[int], int]:
    """The indices inside the image that an output's window has along an axis, and how many count."""
    start = output * kernel.strides[axis] - kernel.pads[axis]
    reads = [start + tap * kernel.dilations[axis] for tap in range(kernel.kernel[axis])]
    inside = [one for one in reads if 0 <= one < kernel.size[axis]]
    end = kernel.size[axis] + kernel.pads[axis + 2]
    with_padding = [one for one in reads if -kernel.pads[axis] <= one < end]
    return inside, len(with_padding if kernel.mode == "average_with_padding" else inside)
