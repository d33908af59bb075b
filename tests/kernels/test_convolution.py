"""Convolutions against their reference, and that against torch's: odd sizes, NaN around the data."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from intaglio.compiler.errors import CodegenError
from intaglio.kernels.catalogue import kernel_from_json
from intaglio.kernels.chain.steps import ChainStep, operands_of
from intaglio.kernels.convolution import apart
from intaglio.kernels.convolution.convolution import Convolution
from intaglio.kernels.convolution.packing import pack_bias, pack_weight
from intaglio.kernels.convolution.reference import convolution

ADD = ChainStep("add")
SCALE = ChainStep("multiply", over="image", stride=48, offset=16)
CASES = {
    "pointwise": Convolution(1, (5, 7), 19, 37, (1, 1)),
    "one pixel": Convolution(1, (1, 1), 24, 6, (1, 1), chain=(ChainStep("hard_sigmoid", 0.2, 0.5),)),
    "images": Convolution(3, (4, 5), 16, 32, (1, 1), chain=(SCALE, ADD, ChainStep("relu"))),
    "many channels": Convolution(2, (3, 3), 33, 112, (1, 1), chain=(ADD,)),
    "strided": Convolution(1, (9, 11), 17, 32, (1, 1), strides=(2, 3)),
    "square": Convolution(2, (11, 9), 12, 24, (3, 3), pads=(1, 1, 1, 1), chain=(ChainStep("hard_swish"),)),
    "halving": Convolution(1, (12, 23), 16, 16, (3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
    "uneven": Convolution(1, (9, 14), 5, 80, (2, 5), (1, 2), (2, 1), (0, 3, 1, 2), chain=(ADD,)),
    "far": Convolution(1, (6, 7), 16, 16, (3, 3), dilations=(6, 5), pads=(6, 5, 6, 5)),
    "plain": Convolution(2, (13, 17), 3, 16, (3, 3), (2, 2), pads=(1, 1, 1, 1), layout="plain"),
    "line": Convolution(2, (1, 130), 16, 32, (1, 25), pads=(0, 12, 0, 12)),
    "small": Convolution(1, (2, 2), 16, 16, (5, 5), pads=(2, 2, 2, 2)),
    "inside": Convolution(
        1, (6, 19), 20, 30, (3, 3), input_stride=60, input_offset=21, result_stride=80, result_offset=32
    ),
    "grouped": Convolution(1, (5, 9), 32, 64, (3, 3), pads=(1, 1, 1, 1), groups=2),
    "small groups": Convolution(1, (5, 9), 24, 40, (3, 3), pads=(1, 1, 1, 1), groups=8),
    "odd groups": Convolution(1, (5, 6), 9, 69, (1, 3), groups=3),
    "depthwise": Convolution(2, (11, 27), 48, 48, (3, 3), pads=(1, 1, 1, 1), groups=48, chain=(ADD,)),
    "depthwise halving": Convolution(1, (9, 13), 20, 20, (5, 5), (2, 1), pads=(2, 2, 2, 2), groups=20),
    "depthwise uneven": Convolution(1, (9, 40), 16, 16, (2, 9), (1, 3), (2, 2), (3, 0, 0, 9), groups=16),
    "multiplied": Convolution(1, (5, 7), 12, 36, (3, 3), groups=12),
    "transposed": Convolution(2, (5, 7), 24, 20, (2, 2), (2, 2), transposed=True),
    "overlapping": Convolution(
        1, (6, 5), 8, 16, (4, 3), (2, 2), pads=(1, 1, 1, 0), transposed=True, output_padding=(0, 1)
    ),
    "transposed far": Convolution(1, (4, 6), 9, 17, (3, 5), (3, 2), (2, 3), (1, 2, 0, 3), 1, transposed=True),
    "transposed groups": Convolution(1, (4, 6), 32, 48, (3, 3), (2, 1), groups=2, transposed=True),
    "transposed depthwise": Convolution(1, (4, 6), 20, 20, (3, 3), (2, 2), groups=20, transposed=True),
    "to one": Convolution(1, (9, 8), 24, 1, (2, 2), (2, 2), transposed=True),
}
APART = {
    "apart": Convolution(2, (3, 5), 10, 3, (2, 3), (2, 3), chain=(ChainStep("logistic"),), transposed=True),
}
CHAINS = (
    (ChainStep("affine", 0.5, 1.0), ChainStep("affine", -3.0, 0.5), ChainStep("clip", -1.0, 2.0)),
    (ChainStep("leaky_relu", 0.1), ChainStep("subtract"), ChainStep("maximum")),
    (ChainStep("logistic"), ChainStep("multiply"), ChainStep("minimum")),
    (ChainStep("silu"), ChainStep("gelu_erf"), ChainStep("tanh"), ChainStep("power", 2.0)),
)


def weights_of(kernel, random):
    """A weight as ONNX has it, and a bias."""
    within = (kernel.outputs, kernel.inputs // kernel.groups)
    if kernel.transposed:
        within = (kernel.inputs, kernel.outputs // kernel.groups)
    weight = random.normal(size=(*within, *kernel.kernel)).astype(np.float32)
    return weight, random.normal(size=kernel.outputs).astype(np.float32)


def made(kernel, random, nan):
    """Buffers of a call, NaN where nothing may be looked at, and what the reference takes."""
    image = random.normal(size=(kernel.batch, *kernel.size, kernel.inputs)).astype(np.float32)
    weight, bias = weights_of(kernel, random)
    buffers = {"weight": pack_weight(kernel, weight), "bias": pack_bias(kernel, bias)}
    if kernel.layout == "plain":
        buffers["input"] = image.transpose(0, 3, 1, 2)
    else:
        buffers["input"] = nan(kernel.batch, *kernel.size, kernel.pixel)
        if kernel.depthwise:
            buffers["input"][...] = 0
        end = kernel.input_offset + kernel.inputs
        buffers["input"][..., kernel.input_offset : end] = image
    operands = []
    for i, step in enumerate(operands_of(kernel.chain)):
        size = kernel.result_size if step.over == "pixels" else (1, 1)
        operands.append(random.normal(size=(kernel.batch, *size, kernel.outputs)).astype(np.float32))
        place = np.zeros((kernel.batch, *size, step.stride or -(-kernel.outputs // 16) * 16), np.float32)
        place[..., step.offset : step.offset + kernel.outputs] = operands[-1]
        buffers[f"operand{i}"] = place
    buffers["result"] = nan(kernel.batch, *kernel.result_size, kernel.result_pixel)
    exact = [one.astype(np.float64) for one in (image, weight, bias)]
    return buffers, convolution(kernel, *exact, [one.astype(np.float64) for one in operands])


def check(kernel, found, expected):
    """The result is right, its padding zero, and what lies beside it untouched."""
    start, end = kernel.result_offset, kernel.result_offset + kernel.outputs
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found[..., start:end], expected, rtol=2e-5, atol=2e-6 * scale)
    last = start + -(-kernel.outputs // 16) * 16
    assert (found[..., end:last] == 0).all()
    assert np.isnan(found[..., :start]).all()
    assert np.isnan(found[..., last:]).all()


@pytest.mark.parametrize("name", CASES)
def test_convolution(name, run_kernel, random, nan):
    """Every kind, with one worker and two."""
    kernel = CASES[name]
    for workers in (1, 2):
        buffers, expected = made(kernel, random, nan)
        found = run_kernel(kernel, buffers, workers=workers)
        check(kernel, found["result"], expected)
        np.testing.assert_array_equal(found["input"], buffers["input"])


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain[0].op)
@pytest.mark.parametrize("groups", [1, 20])
def test_chains(chain, groups, run_kernel, random, nan):
    """What follows a convolution, and that padding stays zero whatever it is."""
    kernel = Convolution(1, (3, 7), 20, 20, (1, 3), pads=(0, 1, 0, 1), groups=groups, chain=chain)
    buffers, expected = made(kernel, random, nan)
    check(kernel, run_kernel(kernel, buffers)["result"], expected)


@pytest.mark.parametrize("name", CASES)
def test_reference(name, random):
    """The reference is torch's convolution."""
    kernel = dataclasses.replace(CASES[name], chain=())
    image = random.normal(size=(kernel.batch, *kernel.size, kernel.inputs))
    weight, bias = (one.astype(np.float64) for one in weights_of(kernel, random))
    top, left, bottom, right = kernel.pads
    given = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
    parameters = (torch.from_numpy(weight), torch.from_numpy(bias), kernel.strides)
    if kernel.transposed:
        done = torch.nn.functional.conv_transpose2d(
            given, *parameters, groups=kernel.groups, dilation=kernel.dilations
        )
        done = torch.nn.functional.pad(done, (0, kernel.output_padding[1], 0, kernel.output_padding[0]))
        height, width = kernel.result_size
        done = done[:, :, top : top + height, left : left + width]
        if any(kernel.output_padding):
            done = done[:, :, : height - 1, : width - 1]  # torch's padding here has no bias
    else:
        given = torch.nn.functional.pad(given, (left, right, top, bottom))
        done = torch.nn.functional.conv2d(given, *parameters, dilation=kernel.dilations, groups=kernel.groups)
    expected = done.numpy().transpose(0, 2, 3, 1)
    found = convolution(kernel, image, weight, bias)
    np.testing.assert_allclose(found[:, : expected.shape[1], : expected.shape[2]], expected, atol=1e-10)


def test_catalogue():
    """A convolution survives JSON, chain and all."""
    kernel = CASES["images"]
    text = json.dumps(dataclasses.asdict(kernel))
    assert kernel_from_json("Convolution", json.loads(text)) == kernel


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"groups": 5}, "not in 5 groups"),
        ({"chain": (ChainStep("fold"),)}, "no step 'fold'"),
        ({"kernel": (9, 9)}, "is empty"),
        ({"layout": "first"}, "no layout 'first'"),
        ({"result_offset": 8}, "do not fit the result"),
        ({"input_offset": 14}, "do not fit the input"),
        ({"strides": (0, 1)}, "at least 1"),
        ({"output_padding": (1, 0)}, "only a transposed"),
    ],
)
def test_bad_parameters(change, complaint):
    """Contradictions are found before any code is made."""
    with pytest.raises(CodegenError, match=complaint):
        Convolution(**{**dataclasses.asdict(CASES["pointwise"]), "chain": (), **change})


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("name", ["to one", "apart", "transposed"])
def test_apart(name, plain, run_kernel, random, nan):
    """Windows that do not overlap: a pointwise convolution and a movement."""
    kernel = {**CASES, **APART}[name]
    image = random.normal(size=(kernel.batch, *kernel.size, kernel.inputs)).astype(np.float32)
    weight, bias = weights_of(kernel, random)
    first, second = apart.pointwise(kernel), apart.movement(kernel, plain=plain)
    given = np.zeros((kernel.batch, *kernel.size, kernel.pixel), np.float32)
    given[..., : kernel.inputs] = image
    buffers = {
        "input": given,
        "weight": pack_weight(first, apart.pointwise_weight(kernel, weight)),
        "bias": pack_bias(first, apart.pointwise_bias(kernel, bias)),
        "result": nan(kernel.batch, *first.result_size, first.result_pixel),
    }
    middle = run_kernel(first, buffers, workers=2)["result"]
    size = kernel.result_size
    shape = (kernel.outputs, *size) if plain else (*size, kernel.result_pixel)
    found = run_kernel(second, {"source": middle, "result": nan(kernel.batch, *shape)}, workers=2)["result"]
    if plain:
        found = found.transpose(0, 2, 3, 1)
    else:
        assert (found[..., kernel.outputs :] == 0).all()
    expected = convolution(kernel, *(one.astype(np.float64) for one in (image, weight, bias)))
    np.testing.assert_allclose(found[..., : kernel.outputs], expected, rtol=2e-5, atol=2e-5)


def test_apart_pays():
    """Only where windows do not overlap, nothing is cut off, and vectors are filled better."""
    assert [name for name in CASES if apart.pays(CASES[name])] == ["transposed", "to one"]
