"""Resizings against their reference, and the tables against onnxruntime."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import onnxruntime
import pytest

from intaglio.compiler.errors import CodegenError
from intaglio.kernels.catalogue import kernel_from_json
from intaglio.kernels.chain.steps import ChainStep
from intaglio.kernels.resize import tables
from intaglio.kernels.resize.reference import resize
from intaglio.kernels.resize.resize import Resize

TRANSFORMATIONS = ("asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners")
ROUNDINGS = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
CASES = {
    "double": Resize(2, (5, 7), (10, 14), 24, chain=(ChainStep("add"),)),
    "odd": Resize(1, (5, 7), (3, 11), 37, chain=(ChainStep("affine", 1.0, 2.0),)),
    "linear": Resize(2, (5, 7), (9, 13), 20, "linear", (ChainStep("multiply", over="image"),)),
    "smaller": Resize(1, (9, 8), (4, 5), 16, "linear"),
    "inside": Resize(
        1, (3, 4), (6, 8), 20, input_stride=64, input_offset=16, result_stride=80, result_offset=32
    ),
}


def tables_of(kernel, transformation="half_pixel", rounding="floor"):
    """As the kernel's pointers want them."""
    places = [
        tables.coordinates(extent, result, result / extent, transformation)
        for extent, result in zip(kernel.size, kernel.result_size, strict=True)
    ]
    if kernel.mode == "nearest":
        return [tables.nearest(*one, rounding) for one in zip(kernel.size, places, strict=True)]
    found = [tables.linear(*one) for one in zip(kernel.size, places, strict=True)]
    return [found[0][0], found[1][0], found[0][1], found[1][1]]


@pytest.mark.parametrize("name", CASES)
def test_resize(name, run_kernel, random, nan):
    """Every kind, with one worker and two."""
    kernel = CASES[name]
    image = random.normal(size=(kernel.batch, *kernel.size, kernel.channels)).astype(np.float32)
    buffers = {"input": nan(kernel.batch, *kernel.size, kernel.pixel)}
    start, end = kernel.input_offset, kernel.input_offset + kernel.channels
    buffers["input"][..., start : -(-end // 16) * 16] = 0
    buffers["input"][..., start:end] = image
    made = tables_of(kernel)
    names = ("rows", "columns", "row_parts", "column_parts")
    buffers |= dict(zip(names, made, strict=False))
    operands = []
    if kernel.chain and kernel.chain[0].has_operand:
        size = kernel.result_size if kernel.chain[0].over == "pixels" else (1, 1)
        operand = np.zeros((kernel.batch, *size, -(-kernel.channels // 16) * 16), np.float32)
        operand[..., : kernel.channels] = random.normal(size=(kernel.batch, *size, kernel.channels))
        buffers["operand0"], operands = operand, [operand[..., : kernel.channels].astype(np.float64)]
    buffers["result"] = nan(kernel.batch, *kernel.result_size, kernel.result_pixel)
    expected = resize(kernel, image.astype(np.float64), made, operands)
    start, end = kernel.result_offset, kernel.result_offset + kernel.channels
    for workers in (1, 2):
        found = run_kernel(kernel, buffers, workers=workers)["result"]
        np.testing.assert_allclose(found[..., start:end], expected, rtol=2e-6, atol=2e-6)
        last = -(-end // 16) * 16
        assert (found[..., end:last] == 0).all()
        assert np.isnan(found[..., :start]).all()
        assert np.isnan(found[..., last:]).all()


def by_onnxruntime(image, size, **attributes):
    """What onnxruntime makes of a channels-last image."""
    node = onnx.helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], **attributes)
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xy"]
    sizes = onnx.numpy_helper.from_array(np.array([1, image.shape[-1], *size], np.int64), "sizes")
    graph = onnx.helper.make_graph([node], "resize", ends[:1], ends[1:], [sizes])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": image.transpose(0, 3, 1, 2)})[0].transpose(0, 2, 3, 1)


@pytest.mark.parametrize("size", [(10, 14), (3, 11), (1, 1), (13, 5)])
@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
def test_tables(size, transformation, random):
    """The reference with our tables is onnxruntime's operator."""
    image = random.normal(size=(1, 5, 7, 3)).astype(np.float32)
    for rounding in ROUNDINGS:
        kernel = Resize(1, (5, 7), size, 3)
        found = resize(kernel, image.astype(np.float64), tables_of(kernel, transformation, rounding))
        attributes = {"coordinate_transformation_mode": transformation, "nearest_mode": rounding}
        expected = by_onnxruntime(image, size, mode="nearest", **attributes)
        np.testing.assert_array_equal(found.astype(np.float32), expected)
    kernel = Resize(1, (5, 7), size, 3, "linear")
    found = resize(kernel, image.astype(np.float64), tables_of(kernel, transformation))
    expected = by_onnxruntime(image, size, mode="linear", coordinate_transformation_mode=transformation)
    np.testing.assert_allclose(found, expected, atol=3e-6)


def test_catalogue():
    """A resizing survives JSON."""
    kernel = CASES["linear"]
    assert kernel_from_json("Resize", json.loads(json.dumps(dataclasses.asdict(kernel)))) == kernel


def test_bad_parameters():
    """Contradictions are found before any code is made."""
    with pytest.raises(CodegenError, match=r"no mode 'cubic'.*do not fit.*multiple of 16"):
        dataclasses.replace(CASES["double"], mode="cubic", result_offset=8)
    with pytest.raises(CodegenError, match="no transformation 'tf_crop'"):
        tables.coordinates(3, 6, 2.0, "tf_crop")
    with pytest.raises(CodegenError, match="no rounding 'up'"):
        tables.nearest(3, np.zeros(3), "up")
