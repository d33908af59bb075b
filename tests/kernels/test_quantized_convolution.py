"""Convolutions of 8-bit images against integers and float64: sums are exact, results rounded half to even."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from intaglio.compiler.errors import CodegenError
from intaglio.kernels.catalogue import kernel_from_json
from intaglio.kernels.chain.steps import ChainStep, operands_of
from intaglio.kernels.convolution import quantized_packing as packing
from intaglio.kernels.convolution.convolution import Convolution
from intaglio.kernels.convolution.quantized import QuantizedConvolution
from intaglio.kernels.convolution.quantized_reference import quantized_convolution, rounded

RELU, ADD = ChainStep("relu"), ChainStep("add")
PADDED = {"pads": (1, 1, 1, 1)}
CASES = {
    "pointwise": QuantizedConvolution(Convolution(1, (5, 7), 19, 37, (1, 1)), 0),
    "to bytes": QuantizedConvolution(Convolution(2, (5, 7), 64, 48, (1, 1), chain=(RELU,)), 13, 0.37, 7),
    "square": QuantizedConvolution(Convolution(1, (6, 19), 16, 24, (3, 3), **PADDED), 101, 0.5, 128),
    "no zero": QuantizedConvolution(Convolution(1, (6, 19), 16, 24, (3, 3), **PADDED), 0, 0.5, 0),
    "far": QuantizedConvolution(
        Convolution(1, (6, 7), 6, 80, (3, 2), (2, 1), (3, 5), (6, 5, 2, 9), chain=(ADD,)), 200
    ),
    "small": QuantizedConvolution(Convolution(1, (2, 2), 16, 16, (5, 5), pads=(2, 2, 2, 2)), 255),
    "grouped": QuantizedConvolution(Convolution(1, (5, 9), 32, 64, (3, 3), groups=2, **PADDED), 77, 1.5, 3),
    "small groups": QuantizedConvolution(Convolution(1, (5, 9), 24, 48, (1, 3), groups=6), 5),
    "depthwise": QuantizedConvolution(
        Convolution(2, (11, 27), 40, 40, (3, 3), groups=40, chain=(ChainStep("hard_swish"),), **PADDED),
        99,
        0.25,
        100,
    ),
    "depthwise halving": QuantizedConvolution(
        Convolution(1, (9, 13), 20, 20, (5, 5), (2, 1), pads=(2, 2, 2, 2), groups=20, chain=(ADD,)), 128
    ),
    "inside": QuantizedConvolution(
        Convolution(
            1, (6, 19), 20, 30, (3, 3), input_stride=60, input_offset=24, result_stride=80, result_offset=32
        ),
        9,
        0.5,
        9,
    ),
}


def made(kernel, random):
    """Buffers of a call, and what the reference gives."""
    shape = kernel.shape
    image = random.integers(0, 256, (shape.batch, *shape.size, shape.inputs)).astype(np.uint8)
    size = (shape.outputs, shape.inputs // shape.groups, *shape.kernel)
    codes = random.integers(-127, 128, size).astype(np.int8)
    scale = random.uniform(0.5, 2.0, shape.outputs) * 2e-3 / np.sqrt(np.prod(size[1:]))
    scale = scale.astype(np.float32).astype(np.float64)
    bias = random.integers(-2000, 2000, shape.outputs)
    given = random.integers(0, 256, (shape.batch, *shape.size, shape.pixel)).astype(np.uint8)
    given[..., shape.input_offset : shape.input_offset + shape.inputs] = image
    buffers = {
        "input": given,
        "weight": packing.pack_weight(kernel, codes),
        "bias": packing.pack_bias(kernel, codes, scale, bias),
        "scale": packing.pack_scale(kernel, scale),
        "outside": packing.pack_outside(kernel, codes),
    }
    operands = []
    for i, _ in enumerate(operands_of(shape.chain)):
        channels = -(-shape.outputs // 16) * 16
        buffers[f"operand{i}"] = random.normal(size=(shape.batch, *shape.result_size, channels))
        buffers[f"operand{i}"] = buffers[f"operand{i}"].astype(np.float32)
        operands.append(buffers[f"operand{i}"][..., : shape.outputs].astype(np.float64))
    element, beside = (np.uint8, 77) if kernel.result_scale else (np.float32, np.nan)
    buffers["result"] = np.full((shape.batch, *shape.result_size, shape.result_pixel), beside, element)
    return buffers, quantized_convolution(kernel, image, codes, scale, bias, operands)


@pytest.mark.parametrize("name", CASES)
def test_quantized_convolution(name, run_kernel, random):
    """Every kind, with one worker and two; codes may differ by one where float32 rounds a tie away."""
    kernel = CASES[name]
    start, end = kernel.shape.result_offset, kernel.shape.result_offset + kernel.shape.outputs
    last = -(-end // 16) * 16
    for workers in (1, 2):
        buffers, expected = made(kernel, random)
        found = run_kernel(kernel, buffers, workers=workers)["result"]
        np.testing.assert_array_equal(found[..., :start], buffers["result"][..., :start])
        np.testing.assert_array_equal(found[..., last:], buffers["result"][..., last:])
        values = found[..., start:end]
        if not kernel.result_scale:
            np.testing.assert_allclose(values, expected, rtol=2e-6, atol=2e-6)
            continue
        codes = expected / kernel.result_scale
        sure = np.abs(codes - np.floor(codes) - 0.5) > 1e-4
        np.testing.assert_array_equal(values[sure], rounded(kernel, expected)[sure])
        assert sure.mean() > 0.99
        assert (values > 0).mean() > 0.2, "nearly everything is clipped"


def test_ties(run_kernel):
    """Halves are rounded to even, on both sides of zero, and ends are clipped."""
    kernel = QuantizedConvolution(Convolution(1, (1, 8), 4, 16, (1, 1)), 0, 2.0, 100)
    codes = np.zeros((16, 4, 1, 1), np.int8)
    codes[0, 0], codes[1, 0] = 1, -1
    image = np.zeros((1, 1, 8, 16), np.uint8)
    image[0, 0, :, 0] = [1, 3, 5, 7, 9, 255, 254, 0]
    scale = np.ones(16)
    buffers = {
        "input": image,
        "weight": packing.pack_weight(kernel, codes),
        "bias": packing.pack_bias(kernel, codes, scale, np.zeros(16, np.int64)),
        "scale": packing.pack_scale(kernel, scale),
        "result": np.full((1, 1, 8, 16), 77, np.uint8),
    }
    found = run_kernel(kernel, buffers)["result"][0, 0]
    assert found[:, 0].tolist() == [100, 102, 102, 104, 104, 228, 227, 100]
    assert found[:, 1].tolist() == [100, 98, 98, 96, 96, 0, 0, 100]


def test_catalogue():
    """A quantized convolution survives JSON, shape and all."""
    kernel = CASES["to bytes"]
    values = json.loads(json.dumps(dataclasses.asdict(kernel)))
    assert kernel_from_json("QuantizedConvolution", values) == kernel


def test_bad_parameters():
    """Contradictions are found before any code is made."""
    with pytest.raises(CodegenError, match=r"only ordinary convolutions.*zeros are 0 … 255"):
        QuantizedConvolution(Convolution(1, (4, 4), 8, 8, (2, 2), transposed=True), 256)
    with pytest.raises(CodegenError, match="multiples of 4"):
        QuantizedConvolution(Convolution(1, (4, 4), 8, 8, (2, 2), input_stride=18), 0)
    with pytest.raises(CodegenError, match="groups have multiples of 4"):
        QuantizedConvolution(Convolution(1, (4, 4), 12, 12, (2, 2), groups=6), 0)
