"""Static 8-bit arithmetic: what is folded, what becomes bytes, how far the outputs move."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from intaglio.backends.onnxruntime import OnnxRuntimeSession
from intaglio.passes.quantize.formats import WeightFormat
from intaglio.passes.quantize.round_dynamically import RoundDynamically
from intaglio.passes.quantize.round_weights import RoundWeights
from intaglio.passes.quantize.static import (
    FoldChannels,
    RecognizeHardSwish,
    RoundStatically,
    ValueRange,
    find_layers,
)

Parse, Lines = Callable[..., ir.Model], Callable[[ir.Model], list[str]]
RANDOM = np.random.default_rng(5)
MOBILE = """net (float[1, 5, 9, 7] x) => (float[n, c, h, w] y) {
    a = Conv<kernel_shape = [1, 1]>(x, w1, b1)
    shifted = Add(a, three)
    clipped = Clip(shifted, zero, six)
    gated = Mul(a, clipped)
    h = Div(gated, six)
    scaled = Mul(h, factor)
    moved = Add(scaled, offset)
    d = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 6>(moved, w2)
    r = Relu(d)
    y = Conv<kernel_shape = [1, 1]>(r, w3, b3)
}"""


def numbers(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def scalar(number: float) -> np.ndarray:
    return np.array(number, np.float32)


def mobile(parse: Parse, factor: float = 1.5, offset: float = 0.25) -> ir.Model:
    """A block of a mobile vision model: 1×1, hard swish, an affine step, depthwise 3×3, 1×1."""
    weights = {
        "w1": numbers(6, 5, 1, 1), "b1": numbers(6), "w2": numbers(6, 1, 3, 3), "w3": numbers(4, 6, 1, 1),
        "b3": numbers(4), "three": scalar(3), "zero": scalar(0), "six": scalar(6),
        "factor": scalar(factor), "offset": scalar(offset),
    }  # fmt: skip
    return parse(MOBILE, **weights)


def run(model: ir.Model, **inputs: Any) -> dict[str, np.ndarray]:
    return OnnxRuntimeSession(model, threads=1).run(inputs)


def seen_ranges(model: ir.Model, **inputs: Any) -> dict[str, ValueRange]:
    """The exact range of every value."""
    copy = model.clone()
    for node in copy.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.type = ir.TensorType(ir.DataType.FLOAT)
                copy.graph.outputs.append(value)
    found = {**run(copy, **inputs), **inputs}
    return {name: ValueRange(float(one.min()), float(one.max())) for name, one in found.items()}


def rounded(model: ir.Model, x: np.ndarray, *sites: str) -> tuple[ir.Model, Any]:
    FoldChannels()(model)
    RecognizeHardSwish()(model)
    ranges = seen_ranges(model, x=x)
    result = RoundStatically(frozenset(sites or [one.site for one in find_layers(model)]), ranges)(model)
    return model, result


def counted(model: ir.Model, op_type: str) -> int:
    return sum(node.op_type == op_type for node in model.graph)


@pytest.mark.parametrize("factor", [1.5, 0.07])
def test_a_mobile_block_stays_close_and_in_bytes(parse: Parse, factor: float) -> None:
    x = numbers(1, 5, 9, 7)
    model = mobile(parse, factor)
    wanted = run(model, x=x)["y"]
    model, result = rounded(model, x)
    found = run(model, x=x)["y"]
    assert [one.site for one in result.applied] == ["a", "d", "y"]
    assert 0 < np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
    # Neither the clipping sum of the hard swish nor the affine step is computed in floating point any more.
    assert counted(model, "HardSwish") == counted(model, "Add") == 0
    assert counted(model, "Mul") == 1
    assert all(
        node.inputs[0].producer().op_type == "DequantizeLinear"
        for node in model.graph
        if node.op_type == "Conv"
    )


def test_onnxruntime_runs_nothing_in_floating_point(parse: Parse, tmp_path: Any) -> None:
    import json

    import onnxruntime

    x = numbers(1, 5, 9, 7)
    model, _ = rounded(mobile(parse), x)
    ir.save(model, tmp_path / "net.onnx")
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", options)
    session.run(None, {"x": x})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = [one["args"]["op_name"] for one in events if one["name"].endswith("_kernel_time")]
    assert ran.count("QLinearConv") == 3
    assert ran.count("QLinearMul") == 1
    assert not {"Conv", "HardSwish", "HardSigmoid", "Mul", "Add", "Relu"} & set(ran)


def test_a_grid_at_the_knee_multiplies_codes_exactly(parse: Parse) -> None:
    """x on the grid itself: the product of codes is hard swish but for the rounding of its result."""
    text = """net (float[1, 1, 1, 33] x) => (float[1, 1, 1, 33] y) {
        a = Conv(x, w) h = HardSwish(a) y = Conv(h, w) }"""
    model = parse(text, w=np.ones((1, 1, 1, 1), np.float32))
    x = np.linspace(-6, 5, 33, dtype=np.float32).reshape(1, 1, 1, 33)
    wanted = run(model, x=x)["y"]
    model, _ = rounded(model, x)
    steps = 11 / 255 + 8 / 255 * 1.5 + 6 / 255  # of x, of x behind the convolution (slope 1.5), of the result
    assert np.abs(run(model, x=x)["y"] - wanted).max() < steps


def test_layers_not_named_stay_exact(parse: Parse) -> None:
    x = numbers(1, 5, 9, 7)
    model, result = rounded(mobile(parse), x, "y")
    assert [one.site for one in result.applied] == ["y"]
    first = next(node for node in model.graph if node.op_type == "Conv")
    assert first.inputs[1].is_initializer()


@pytest.mark.parametrize("spoilt", [None, ValueRange(-np.inf, 1.0), ValueRange(float("nan"), float("nan"))])
def test_layers_without_a_range_are_declined_and_others_are_not(parse: Parse, spoilt: Any) -> None:
    x = numbers(1, 5, 9, 7)
    model = mobile(parse)
    RecognizeHardSwish()(model)
    ranges = seen_ranges(model, x=x)
    ranges.pop("x")
    if spoilt is not None:
        ranges["x"] = spoilt
    result = RoundStatically(frozenset({"a", "y"}), ranges)(model)
    assert [one.site for one in result.declined] == ["a"]
    assert [one.site for one in result.applied] == ["y"]


def test_arithmetic_per_channel_folds_into_convolutions(parse: Parse) -> None:
    text = """net (float[2, 4, 5, 3] x) => (float[n, c, h, w] y) {
        a = ConvTranspose<group = 2, strides = [2, 1]>(x, w)
        b = BatchNormalization(a, scale, bias, mean, variance)
        c = Mul(b, four)
        d = Sub(c, each)
        y = Div(d, four) }"""
    weights = {name: numbers(6) for name in ("scale", "bias", "mean")}
    variance, each = np.abs(numbers(6)) + 0.1, numbers(1, 6, 1, 1)
    model = parse(text, w=numbers(4, 3, 2, 3), variance=variance, each=each, four=scalar(4), **weights)
    x = numbers(2, 4, 5, 3)
    wanted = run(model, x=x)["y"]
    result = FoldChannels()(model)
    assert [one.detail for one in result.applied] == ["BatchNormalization", "Mul", "Sub", "Div"]
    assert [node.op_type for node in model.graph] == ["ConvTranspose"]
    np.testing.assert_allclose(run(model, x=x)["y"], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("node", "constant"),
    [("Add(a, k)", numbers(1, 1, 1, 3)), ("Div(a, k)", scalar(0)), ("Add(a, a)", scalar(0))],
)
def test_what_is_no_arithmetic_per_channel_stays(parse: Parse, node: str, constant: np.ndarray) -> None:
    text = f"net (float[1, 2, 3, 3] x) => (float[1, 3, 3, 3] y) {{ a = Conv(x, w) y = {node} }}"
    used = {"k": constant} if "k" in node else {}
    model = parse(text, w=numbers(3, 2, 1, 1), **used)
    assert not FoldChannels()(model).applied
    assert [one.op_type for one in model.graph] == ["Conv", node.partition("(")[0]]


def test_another_slope_is_no_hard_swish(parse: Parse) -> None:
    text = "net (float[3] x) => (float[3] y) { g = HardSigmoid<alpha = 0.2, beta = 0.5>(x) y = Mul(x, g) }"
    assert not RecognizeHardSwish()(parse(text)).applied


@pytest.mark.parametrize("low", [-3.0, 0.0, 2.0])
def test_every_grid_holds_zero(low: float) -> None:
    grid = ValueRange(low, 5.0)
    assert 0 <= int(grid.zero_point) <= 255
    assert (255 - int(grid.zero_point)) * float(grid.scale) == pytest.approx(5.0, abs=float(grid.scale))


def test_dynamic_rounding_shares_one_input_and_declines_float_weights(parse: Parse) -> None:
    text = """net (float[3, 8] x) => (float[3, 5] y, float[3, 5] z, float[3, 5] f) {
        t = Transpose(w) y = MatMul(x, t)
        u = Transpose(v) z = MatMul(x, u)
        s = Transpose(q) f = MatMul(x, s) }"""
    model = parse(text, w=numbers(5, 8), v=numbers(5, 8), q=numbers(5, 8))
    x = numbers(3, 8)
    wanted = run(model, x=x)
    RoundWeights(dict.fromkeys(("y", "z"), WeightFormat(8, None)))(model)
    result = RoundDynamically(frozenset({"y", "z", "f"}))(model)
    assert [one.site for one in result.declined] == ["f"]
    assert counted(model, "DynamicQuantizeLinear") == 1
    found = run(model, x=x)
    for name in ("y", "z"):
        assert 0 < np.abs(found[name] - wanted[name]).max() < 0.1
    np.testing.assert_array_equal(found["f"], wanted["f"])
    assert [one.reason for one in RoundDynamically(frozenset({"y"}))(model).declined] == [
        "its activations are rounded already"
    ]
