"""Rounding: bounds, order of qualities, idempotence, odd numbers, and what lands in the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from intaglio.passes.linears import find_linears
from intaglio.passes.quantize.formats import Scheme, WeightFormat
from intaglio.passes.quantize.round_weights import RoundWeights, stored_format
from intaglio.passes.quantize.rounding import round_block

LINEAR = """g (float[b, s, {columns}] x) => (float[b, s, {rows}] y)
  {{ t = Transpose<perm = [1, 0]>(w)  y = MatMul(x, t) }}"""
FORMATS = [
    WeightFormat(bits, group, scheme)
    for bits in (4, 8)
    for group in (32, 64, 128, None)
    for scheme in ("symmetric", "asymmetric", "minimum")
]


def random_weights(rows: int = 7, columns: int = 256, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32) / 16


def linear(parse: Callable[..., ir.Model], weights: np.ndarray) -> ir.Model:
    rows, columns = weights.shape
    return parse(LINEAR.format(rows=rows, columns=columns), w=weights)


def rounded_weights(model: ir.Model, form: WeightFormat) -> np.ndarray:
    RoundWeights({"y": form})(model)
    return find_linears(model)[0].weight.numpy()


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_every_format_is_certified_and_runs(
    parse: Callable[..., ir.Model], run: Callable[..., dict[str, np.ndarray]], form: WeightFormat
) -> None:
    weights = random_weights()
    model = linear(parse, weights)
    result = RoundWeights({"y": form})(model)
    frobenius, bound = (one.certificate for one in result.applied)
    found = find_linears(model)[0].weight
    assert found.format == stored_format(form, 256)
    assert frobenius.error == pytest.approx(relative(found.numpy(), weights), rel=1e-3)
    assert frobenius.error < (0.2 if form.bits == 4 else 0.012)
    assert 0 < bound.error <= 1
    assert bound.holds
    x = np.random.default_rng(1).standard_normal((1, 2, 256), np.float32)
    np.testing.assert_allclose(run(model, x=x)["y"], x @ found.numpy().T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_no_weight_is_further_from_its_code_than_the_stored_scale_allows(
    parse: Callable[..., ir.Model], form: WeightFormat
) -> None:
    weights = random_weights(rows=3)
    model = linear(parse, weights)
    result = rounded_weights(model, form)
    scale = find_linears(model)[0].weight.tensors[1].const_value.numpy().astype(np.float32)
    error = np.abs(result - weights).reshape(3, scale.shape[1], -1).max(-1)
    allowed = 1.0 if form.scheme == "symmetric" and form.bits == 4 else 0.5 + 2**form.bits * 2.0**-11
    assert np.all(error <= np.abs(scale) * allowed + 1e-7)


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric", "minimum"])
def test_more_bits_and_smaller_groups_are_better(parse: Callable[..., ir.Model], scheme: Scheme) -> None:
    weights = random_weights(rows=33)
    error = {
        (bits, group): relative(
            rounded_weights(linear(parse, weights), WeightFormat(bits, group, scheme)), weights
        )
        for bits in (4, 8)
        for group in (32, 64, 128, None)
    }
    for group in (32, 64, 128, None):
        assert error[8, group] < error[4, group] / 10
    for bits in (4, 8):
        assert error[bits, 32] < error[bits, 64] < error[bits, 128] < error[bits, None]


def test_a_minimum_is_best_for_weights_off_centre(parse: Callable[..., ir.Model]) -> None:
    weights = np.abs(random_weights()) + 0.1
    errors = {
        scheme: relative(rounded_weights(linear(parse, weights), WeightFormat(4, 32, scheme)), weights)
        for scheme in ("symmetric", "asymmetric", "minimum")
    }
    assert errors["minimum"] < errors["asymmetric"] < errors["symmetric"]


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_rounding_twice_changes_nothing(parse: Callable[..., ir.Model], form: WeightFormat) -> None:
    """By way of float weights: the grid has to be found again, up to one rounding of the float16 scale."""
    once = rounded_weights(linear(parse, random_weights()), form)
    twice = rounded_weights(linear(parse, once), form)
    if form.scheme == "minimum" or (form.scheme == "symmetric" and form.bits == 8):
        np.testing.assert_array_equal(twice, once)
    else:
        assert relative(twice, once) < (0.02 if form.bits == 4 else 0.002)


def test_a_weight_in_the_format_already_is_left_bit_for_bit(parse: Callable[..., ir.Model]) -> None:
    model = linear(parse, random_weights())
    RoundWeights({"y": WeightFormat(4, 32)})(model)
    before = find_linears(model)[0].weight.tensors
    result = RoundWeights({"y": WeightFormat(4, 32)})(model)
    assert (result.applied, result.declined) == ((), ())
    assert find_linears(model)[0].weight.tensors == before


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric", "minimum"])
@pytest.mark.parametrize(
    "weights",
    [
        np.zeros(32),
        np.full(32, 0.5),
        np.full(32, -3.0),
        np.r_[np.zeros(31), 1e-7],
        np.linspace(-1e-6, 1e-6, 32),
    ],
    ids=["zeros", "equal", "equal and negative", "nearly zero", "below float16"],
)
def test_odd_groups(bits: int, scheme: Scheme, weights: np.ndarray) -> None:
    block = weights.astype(np.float32).reshape(1, 1, 32)
    result = round_block(block, WeightFormat(bits, 32, scheme))
    assert result.is_finite
    assert np.all(np.abs(result.values - block).max(-1) <= result.bound + 2.0**-25)
    if not block.any():
        np.testing.assert_array_equal(result.values, block)


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric", "minimum"])
@pytest.mark.parametrize("bad", [np.float32(3e7), np.inf, np.nan])
def test_weights_beyond_float16_are_declined(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]], scheme: Scheme, bad: float
) -> None:
    weights = random_weights()
    weights[2, 5] = bad
    model = linear(parse, weights)
    before = lines(model)
    result = RoundWeights({"y": WeightFormat(8, 32, scheme)})(model)
    assert "too large" in result.declined[0].reason
    assert (result.applied, lines(model)) == ((), before)


def test_a_group_that_does_not_divide_is_declined(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]]
) -> None:
    model = linear(parse, random_weights(columns=96))
    result = RoundWeights({"y": WeightFormat(4, 64)})(model)
    assert "group 64 of int4-g64 does not divide the layer's 96 inputs" in result.declined[0].reason
    assert RoundWeights({"y": WeightFormat(4, 32)})(model).modified


def test_per_channel_takes_odd_sizes(parse: Callable[..., ir.Model]) -> None:
    weights = random_weights(rows=3, columns=37)
    model = linear(parse, weights)
    assert relative(rounded_weights(model, WeightFormat(4, None)), weights) < 0.15


def test_packed_codes_are_the_codes_in_memory(parse: Callable[..., ir.Model]) -> None:
    model = linear(parse, random_weights(rows=5, columns=64))
    RoundWeights({"y": WeightFormat(4, 32)})(model)
    codes = find_linears(model)[0].weight.stored.codes.const_value
    assert (codes.dtype, codes.nbytes, len(codes.tobytes())) == (ir.DataType.INT4, 5 * 32, 5 * 32)
    unpacked = codes.numpy().astype(int)
    raw = np.frombuffer(codes.tobytes(), np.uint8)
    nibbles = np.stack([raw & 15, raw >> 4], -1).reshape(5, 64).astype(int)
    np.testing.assert_array_equal(np.where(nibbles > 7, nibbles - 16, nibbles), unpacked)


def test_the_graph_after_rounding(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]]
) -> None:
    model = linear(parse, random_weights())
    RoundWeights({"y": WeightFormat(4, 64, "asymmetric")})(model)
    name = "y.int4-g64-asymmetric"
    assert lines(model) == [
        f"{name}.scale.float32 = Cast({name}.scale) to=1",
        f"{name} = DequantizeLinear({name}.codes, {name}.scale.float32, {name}.zero_point) "
        "axis=1 block_size=64",
        f"t = Transpose({name}) perm=[1, 0]",
        "y = MatMul(x, t)",
    ]
    assert "w" not in model.graph.initializers


@pytest.mark.parametrize("quantization", ["Q4_1", "Q5_1"])
def test_q4_1_weights_are_found_again_from_their_floats(
    tiny_decoder: Callable[..., Any], parse: Callable[..., ir.Model], quantization: str
) -> None:
    """Re-rounding what a GGUF file holds with a minimum reproduces it: 4 bits exactly, 5 bits within 8."""
    linears = find_linears(tiny_decoder(quantization=quantization).traced())
    weight = next(one.weight for one in linears if one.site == "layers.0.mlp.down_proj")
    values = weight.numpy()
    again = rounded_weights(
        linear(parse, values), WeightFormat(4 if quantization == "Q4_1" else 8, 32, "minimum")
    )
    if quantization == "Q4_1":
        np.testing.assert_array_equal(again, values)
    else:
        assert relative(again, values) < 0.005


def test_q4_0_weights_are_found_again_from_their_floats(
    tiny_decoder: Callable[..., Any], parse: Callable[..., ir.Model]
) -> None:
    linears = find_linears(tiny_decoder(quantization="Q4_0").traced())
    weight = next(one.weight for one in linears if one.site == "layers.1.self_attn.q_proj")
    again = rounded_weights(linear(parse, weight.numpy()), WeightFormat(4, 32))
    np.testing.assert_array_equal(again, weight.numpy())
