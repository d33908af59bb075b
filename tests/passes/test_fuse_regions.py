"""Fused decoders: equal numbers, shared functions, nothing lost, and what fits no region."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import InlinePass

from intaglio.compiler.ir.invariants import check
from intaglio.compiler.plan import Plan
from intaglio.passes.fuse import fuse
from intaglio.passes.fuse.outline import Region, outline
from intaglio.passes.normalize import Expected, normalize
from intaglio.passes.quantize import apply_treatments
from intaglio.passes.rewriting import SITE, remove_unused

PLANS = ["keep", "keep:a16", "int4-g32-asymmetric", "bf16", "int8-channel, layers.1.mlp.down_proj=fp32"]


def canonical(decoder: Any, plan: str = "keep", last: bool = False) -> ir.Model:
    model = decoder.traced()
    normalize(
        model,
        expected=Expected(attentions=decoder.sizes.layers, gated=decoder.sizes.layers),
        capacity=decoder.CAPACITY,
        last_position_only=last,
    )
    apply_treatments(model, Plan.parse(plan).sites, Plan.parse(plan).default)
    return model


def kinds(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph if node.overload)


@pytest.mark.parametrize("plan", PLANS)
def test_a_fused_decoder_computes_the_same_bits(tiny_decoder: Callable[..., Any], plan: str) -> None:
    decoder = tiny_decoder(quantization="Q4_1")
    model = canonical(decoder, plan)
    expected = decoder.cached(model)
    result = fuse(model)
    np.testing.assert_array_equal(decoder.cached(model), expected)
    assert result.declined == ()
    assert all(one.certificate is not None and one.certificate.holds for one in result.applied)
    InlinePass()(model)
    np.testing.assert_array_equal(decoder.cached(model), expected)


@pytest.mark.parametrize(
    ("quantization", "plan"), [("Q4_K", "keep"), ("Q5_K", "keep"), ("Q6_K", "keep:a8g16")]
)
def test_k_quants_keep_their_grid(tiny_decoder: Callable[..., Any], quantization: str, plan: str) -> None:
    decoder = tiny_decoder(
        quantization=quantization, hidden=256, feed_forward=256, embedding_quantization="Q8_0"
    )
    exact = canonical(decoder, "keep:a16")
    np.testing.assert_allclose(decoder.cached(exact), decoder.whole(), rtol=1e-4, atol=1e-4)
    model = canonical(decoder, plan)
    expected = decoder.cached(model)
    assert fuse(model).declined == ()
    np.testing.assert_array_equal(decoder.cached(model), expected)


def test_layers_of_equal_treatment_share_functions(tiny_decoder: Callable[..., Any]) -> None:
    model = canonical(tiny_decoder(quantization="Q4_1", layers=3))
    fuse(model)
    assert kinds(model) == {
        "Embedding": 1,
        "NormLinear": 4,
        "CachedAttention": 3,
        "LinearAdd": 6,
        "NormGatedLinear": 3,
    }
    functions = Counter(name for _, name, overload in model.functions if overload)
    assert functions == {
        "Embedding": 1,
        "NormLinear": 2,
        "CachedAttention": 1,
        "LinearAdd": 2,
        "NormGatedLinear": 1,
    }


def test_a_layer_treated_apart_has_a_function_of_its_own(tiny_decoder: Callable[..., Any]) -> None:
    model = canonical(tiny_decoder(quantization="Q4_1", layers=3), "keep, layers.1.self_attn.o_proj=int8-g32")
    fuse(model)
    overloads = {
        node.metadata_props[SITE]: node.overload for node in model.graph if node.op_type == "LinearAdd"
    }
    same, other = overloads["layers.0.self_attn.o_proj"], overloads["layers.1.self_attn.o_proj"]
    assert same == overloads["layers.2.self_attn.o_proj"] != other


def test_every_call_names_its_site_and_only_index_arithmetic_is_left(
    tiny_decoder: Callable[..., Any],
) -> None:
    model = canonical(tiny_decoder(quantization="Q4_1", layers=1), last=True)
    fuse(model)
    sites = [(node.op_type, node.metadata_props[SITE]) for node in model.graph if node.overload]
    assert sites == [
        ("Embedding", "embed_tokens"),
        ("NormLinear", "layers.0.self_attn.qkv_proj"),
        ("CachedAttention", "layers.0.self_attn.attention"),
        ("LinearAdd", "layers.0.self_attn.o_proj"),
        ("NormGatedLinear", "layers.0.mlp.gate_up_proj"),
        ("LinearAdd", "layers.0.mlp.down_proj"),
        ("NormLinear", "lm_head"),
    ]
    rest = [node.op_type for node in model.graph if not node.overload]
    assert rest == ["Shape", "Add", "Squeeze", "Range", "Unsqueeze", "Add"]
    head = model.functions[
        next(node for node in model.graph if node.name.startswith("lm_head")).op_identifier()
    ]
    assert [node.op_type for node in head][:5] == [
        "Constant",
        "Constant",
        "Constant",
        "Slice",
        "RMSNormalization",
    ]


def test_weights_are_inputs_and_shapes_belong_to_the_body(tiny_decoder: Callable[..., Any]) -> None:
    model = canonical(tiny_decoder(quantization="Q4_1", layers=1))
    fuse(model)
    attention = next(one for one in model.functions.values() if one.name == "CachedAttention")
    assert [one.name for one in attention.inputs] == [
        "x", "rotary.cosine", "rotary.sine", "position_ids", "key_cache", "position", "value_cache", "length",
    ]  # fmt: skip
    assert [one.name for one in attention.outputs] == [
        "self_attn.joined",
        "key_cache.updated",
        "value_cache.updated",
    ]
    linear = next(one for one in model.functions.values() if one.name == "LinearAdd")
    assert [one.name.rpartition(".")[2] for one in linear.inputs] == ["x", "2", "codes", "scale", "minimum"]


def test_unmerged_projections_each_get_the_norm(tiny_decoder: Callable[..., Any]) -> None:
    """Without merging, three projections read one norm: it is copied, and the numbers stay."""
    from intaglio.passes.normalize.recognize_gated import RecognizeGated
    from intaglio.passes.normalize.static_kv_cache import StaticKvCache

    decoder = tiny_decoder(quantization="Q4_1")
    model = decoder.traced()
    RecognizeGated()(model)
    StaticKvCache(decoder.CAPACITY)(model)
    apply_treatments(model)
    expected = decoder.cached(model)
    result = fuse(model)
    assert result.declined == ()
    assert all(one.certificate.holds for one in result.applied)
    assert kinds(model) == {
        "Embedding": 1,
        "NormLinear": 7,
        "CachedAttention": 2,
        "LinearAdd": 4,
        "NormGatedLinear": 2,
    }
    np.testing.assert_array_equal(decoder.cached(model), expected)


def test_what_fits_no_region_is_declined_by_name(
    tiny_decoder: Callable[..., Any], parse: Callable[..., ir.Model]
) -> None:
    traced = tiny_decoder(quantization="Q4_1", layers=1).traced()
    declined = {one.site: one.reason for one in fuse(traced).declined}
    assert "come from no cache" in declined["layers.0.self_attn.attention"]
    text = "g (float[b, s, 4] x) => (float[b, s, 4] y) { z = Sin(x)  y = CumSum(z, axis) }"
    model = parse(text, axis=np.array(1))
    result = fuse(model)
    assert [one.reason for one in result.declined] == ["Sin fits no region", "CumSum fits no region"]
    assert not result.modified


def test_a_linear_layer_by_itself(parse: Callable[..., ir.Model]) -> None:
    text = "g (float[b, s, 4] x) => (float[b, s, 4] y) { t = Transpose<perm = [1, 0]>(w)  y = MatMul(x, t) }"
    model = parse(text, w=np.ones((4, 4), np.float32))
    assert fuse(model).declined == ()
    assert kinds(model) == {"Linear": 1}


ROWS = """g (float[b, s, 8] x, float[b, s, 4] u) => (float[b, s, 4] y, float[b, s, 4] z)
  <int64[2] sizes = {4, 4}, float[4] bias = {1, 2, 3, 4}, float cap = {2}> {
  gate, up = Split<axis = -1>(x, sizes)
  a = Gelu<approximate = "tanh">(gate)  b = Mul(a, up)  c = Add(b, bias)
  n = LayerNormalization(c, bias, bias)  y = Add(n, u)
  d = Div(c, cap)  t = Tanh(d)  z = Mul(t, cap) }"""


def test_arithmetic_on_rows_becomes_regions_of_one_output(
    parse: Callable[..., ir.Model], run: Callable[..., dict[str, np.ndarray]]
) -> None:
    """`c` has readers in two regions, so it is the output of a third; both halves of x are views of it."""
    random = np.random.default_rng(0)
    given = {"x": random.standard_normal((2, 3, 8)), "u": random.standard_normal((2, 3, 4))}
    given = {name: one.astype(np.float32) for name, one in given.items()}
    model = parse(ROWS)
    expected = run(model, **given)
    assert fuse(model).declined == ()
    assert kinds(model) == {"Rowwise": 3}
    assert [len(node.outputs) for node in model.graph] == [1, 1, 1]
    found = run(model, **given)
    for name, one in expected.items():
        np.testing.assert_array_equal(found[name], one)


def test_rows_of_other_ranks_and_unknown_widths_are_declined(parse: Callable[..., ir.Model]) -> None:
    text = (
        "g (float[b, 4] x, float[b, s, n] u) => (float[b, 4] y, float[b, s, n] z) { y = Neg(x)  z = Neg(u) }"
    )
    assert [one.reason for one in fuse(parse(text)).declined] == ["Neg fits no region"] * 2


def test_a_bias_is_no_residual(parse: Callable[..., ir.Model]) -> None:
    text = """g (float[b, s, 4] x) => (float[b, s, 4] y) <float[4] bias = {1, 2, 3, 4}> {
      t = Transpose<perm = [1, 0]>(w)  p = MatMul(x, t)  q = Add(p, bias)  y = Add(q, x) }"""
    model = parse(text, w=np.ones((4, 4), np.float32))
    fuse(model)
    assert kinds(model) == {"Linear": 1, "Rowwise": 1}


def test_outlining_any_nodes(
    parse: Callable[..., ir.Model],
    lines: Callable[[ir.Model], list[str]],
    run: Callable[..., dict[str, np.ndarray]],
) -> None:
    """Two outputs, an input read twice, a constant shape, a value used inside and outside."""
    text = """g (float[2, 6] x, float[2, 6] u) => (float[3, 4] y, float[2, 6] z) <int64[2] shape = {3, 4}> {
      a = Add(x, u)  b = Mul(a, x)  y = Reshape(b, shape)  z = Neg(a) }"""
    x, u = np.random.default_rng(0).standard_normal((2, 2, 6), np.float32)
    model = parse(text)
    expected = run(model, x=x, u=u)
    a, b, y, _ = model.graph
    call = outline(model, Region("Part", "part", frozenset([a, b, y]), (y.outputs[0], a.outputs[0])))
    remove_unused(model)
    check(model)
    assert lines(model) == ["y, a = intaglio.Part(x, u)", "z = Neg(a)"]
    assert [one.op_type for one in model.functions[call.op_identifier()]] == [
        "Add",
        "Mul",
        "Constant",
        "Reshape",
    ]
    for name, one in run(model, x=x, u=u).items():
        np.testing.assert_array_equal(one, expected[name])


def test_the_shape_is_part_of_the_overload(parse: Callable[..., ir.Model]) -> None:
    text = "g (float[2, 6] x) => (float[n, m] y) <int64[2] shape = {SHAPE}> { y = Reshape(x, shape) }"

    def overload(shape: str) -> str:
        model = parse(text.replace("SHAPE", shape))
        (node,) = model.graph
        return outline(model, Region("Part", "part", frozenset([node]), tuple(node.outputs))).overload

    assert overload("3, 4") == overload("3, 4") != overload("4, 3")
