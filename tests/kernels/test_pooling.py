"""Poolings against their reference, and that against torch: paddings, ceil_mode, bytes, whole images."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from intaglio.compiler.errors import CodegenError
from intaglio.kernels.catalogue import kernel_from_json
from intaglio.kernels.pooling.pooling import Pooling
from intaglio.kernels.pooling.reference import pooling

CASES = {
    "halving": Pooling(2, (7, 23), 24, (2, 2), (2, 2)),
    "padded": Pooling(1, (7, 19), 40, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
    "dilated": Pooling(1, (9, 9), 16, (3, 2), (1, 3), (2, 3), (2, 0, 1, 3)),
    "average": Pooling(2, (3, 80), 37, (3, 2), (3, 2), mode="average"),
    "average padded": Pooling(1, (8, 13), 16, (3, 5), (1, 2), (1, 1), (1, 2, 1, 2), mode="average"),
    "average with": Pooling(
        1, (8, 13), 16, (3, 5), (1, 2), (1, 1), (1, 2, 1, 2), mode="average_with_padding"
    ),
    "ceil": Pooling(1, (6, 8), 16, (3, 3), (2, 2), (1, 1), (0, 1, 0, 1), (1, 1), "average_with_padding"),
    "ceil max": Pooling(1, (6, 8), 16, (3, 3), (2, 2), (1, 1), (0, 1, 0, 1), (1, 1)),
    "whole": Pooling(3, (5, 7), 33, (5, 7), mode="average"),
    "whole max": Pooling(1, (1, 3), 16, (1, 3)),
    "bytes": Pooling(1, (5, 9), 24, (3, 3), (2, 1), (1, 1), (1, 1, 1, 1), element="uint8"),
    "signed": Pooling(1, (5, 9), 24, (3, 3), (2, 1), (1, 1), (1, 1, 1, 1), element="int8"),
    "inside": Pooling(
        1, (4, 9), 20, (2, 2), input_stride=64, input_offset=16, result_stride=80, result_offset=32
    ),
}


def made(kernel, random):
    """An input, zeros beyond its channels and NaN beside them, and a buffer for the result."""
    shape = (kernel.batch, *kernel.size, kernel.channels)
    if kernel.element == "float32":
        values, beside = random.normal(size=shape).astype(np.float32), np.nan
    else:
        low, high = np.iinfo(kernel.element).min, np.iinfo(kernel.element).max
        values, beside = random.integers(low, high + 1, size=shape).astype(kernel.element), 77
    image = np.full((*shape[:3], kernel.pixel), beside, kernel.element)
    start, end = kernel.input_offset, kernel.input_offset + kernel.channels
    image[..., start : -(-end // 16) * 16] = 0
    image[..., start:end] = values
    result = np.full((kernel.batch, *kernel.result_size, kernel.result_pixel), beside, kernel.element)
    return values, {"input": image, "result": result}


@pytest.mark.parametrize("name", CASES)
def test_pooling(name, run_kernel, random):
    """Every kind, with one worker and two."""
    kernel = CASES[name]
    start, end = kernel.result_offset, kernel.result_offset + kernel.channels
    for workers in (1, 2):
        values, buffers = made(kernel, random)
        found = run_kernel(kernel, buffers, workers=workers)["result"]
        expected = pooling(kernel, values.astype(np.float64))
        np.testing.assert_allclose(found[..., start:end], expected, rtol=2e-6, atol=2e-6)
        last = -(-end // 16) * 16
        assert (found[..., end:last] == 0).all()
        np.testing.assert_array_equal(found[..., :start], buffers["result"][..., :start])
        np.testing.assert_array_equal(found[..., last:], buffers["result"][..., last:])


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].pads[:2] == CASES[name].pads[2:]])
def test_reference(name, random):
    """The reference is torch's pooling."""
    kernel = CASES[name]
    values, _ = made(kernel, random)
    image = torch.from_numpy(values.astype(np.float64).transpose(0, 3, 1, 2).copy())
    arguments = {"kernel_size": kernel.kernel, "stride": kernel.strides, "padding": kernel.pads[:2]}
    arguments["ceil_mode"] = any(kernel.overhang)
    if kernel.mode == "max":
        done = torch.nn.functional.max_pool2d(image, dilation=kernel.dilations, **arguments)
    else:
        with_padding = kernel.mode == "average_with_padding"
        done = torch.nn.functional.avg_pool2d(image, count_include_pad=with_padding, **arguments)
    expected = done.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(pooling(kernel, values.astype(np.float64)), expected, atol=1e-12)


def test_catalogue():
    """A pooling survives JSON."""
    kernel = CASES["ceil"]
    assert kernel_from_json("Pooling", json.loads(json.dumps(dataclasses.asdict(kernel)))) == kernel


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"kernel": (9, 2)}, "does not fit"),
        ({"mode": "median"}, "no 'median'"),
        ({"mode": "average", "element": "uint8"}, "no average of uint8"),
        ({"input_offset": 8}, "do not fit a stride"),
        ({"strides": (0, 1)}, "at least 1"),
    ],
)
def test_bad_parameters(change, complaint):
    """Contradictions are found before any code is made."""
    with pytest.raises(CodegenError, match=complaint):
        dataclasses.replace(CASES["halving"], **change)
