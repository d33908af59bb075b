"""Treatments of whole decoders: what each costs in accuracy, what is shared, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from intaglio.compiler.errors import OptionError
from intaglio.compiler.plan import Plan
from intaglio.passes.linears import find_linears
from intaglio.passes.normalize import Expected, normalize
from intaglio.passes.quantize import ActivationFormat, Treatment, WeightFormat, apply_treatments
from intaglio.passes.quantize.quantize_activations import QuantizeActivations, round_activations
from intaglio.passes.result import PassResult

# Largest relative error of the logits of the tiny Q8_0 llama; about twice what was measured.
MEASURED = {
    "keep:a16": 1e-5,
    "keep": 0.04,
    "fp32": 1e-5,
    "bf16": 0.02,
    "int8-g32": 0.05,
    "int8-g64-asymmetric": 0.05,
    "int8-channel": 0.05,
    "int8-g32-minimum": 0.05,
    "int4-g32": 0.5,
    "int4-g32-asymmetric": 0.5,
    "int4-g32-minimum": 0.5,
    "int4-channel:a16": 0.6,
}


def canonical(decoder: Any, treatment: str) -> tuple[ir.Model, PassResult]:
    model = decoder.traced()
    normalize(
        model,
        expected=Expected(attentions=decoder.sizes.layers, gated=decoder.sizes.layers),
        capacity=decoder.CAPACITY,
    )
    plan = Plan.parse(treatment)
    return model, apply_treatments(model, plan.sites, plan.default)


@pytest.fixture(scope="module")
def decoder(tiny_decoder: Callable[..., Any]) -> Any:
    return tiny_decoder(quantization="Q8_0", feed_forward=128)


@pytest.mark.parametrize(("treatment", "limit"), MEASURED.items())
def test_every_treatment_is_measured(decoder: Any, treatment: str, limit: float) -> None:
    model, result = canonical(decoder, treatment)
    exact = decoder.whole()
    error = np.linalg.norm(decoder.cached(model) - exact) / np.linalg.norm(exact)
    assert error < limit
    assert limit < 1e-4 or error > limit / 20, "the treatment did nothing"
    assert result.declined == ()
    assert all(one.certificate is not None and one.certificate.holds for one in result.applied)


def test_every_site_gets_what_the_plan_says(decoder: Any) -> None:
    plan = (
        "int4-g32, lm_head=bf16, layers.1.mlp.gate_up_proj=int8-g64:a8g64, layers.0.self_attn.o_proj=keep:a16"
    )
    model, _ = canonical(decoder, plan)
    found = {one.site: (one.weight.format, one.quantize is not None) for one in find_linears(model)}
    small = ("symmetric int4, float16 in blocks of 32", True)
    assert found == {
        "layers.0.self_attn.qkv_proj": small,
        "layers.0.self_attn.o_proj": ("symmetric int8, float16 in blocks of 32", False),
        "layers.0.mlp.gate_up_proj": small,
        "layers.0.mlp.down_proj": small,
        "layers.1.self_attn.qkv_proj": small,
        "layers.1.self_attn.o_proj": small,
        "layers.1.mlp.gate_up_proj": ("symmetric int8, float16 in blocks of 64", True),
        "layers.1.mlp.down_proj": small,
        "lm_head": ("float bfloat16", False),
    }
    groups = {
        one.site: one.quantize.attributes["group"].as_int() for one in find_linears(model) if one.quantize
    }
    assert groups.pop("layers.1.mlp.gate_up_proj") == 64
    assert set(groups.values()) == {32}


def test_a_tied_table_stays_one(decoder: Any) -> None:
    model, result = canonical(decoder, "keep, lm_head=int4-g32")
    detail = next(one.detail for one in result.applied if one.site == "lm_head")
    assert detail.endswith("int4-g32, shared with embed_tokens")
    assert not any("embed_tokens" in name for name in model.graph.initializers)
    gather = next(node for node in model.graph if node.op_type == "Gather" and node.name == "embed_tokens")
    head = next(one for one in find_linears(model) if one.site == "lm_head")
    assert gather.inputs[0] is head.weight.value


def test_an_untied_embedding_is_left(tiny_decoder: Callable[..., Any]) -> None:
    decoder = tiny_decoder(quantization="Q8_0", embedding_quantization="F32", tied=False)
    model, result = canonical(decoder, "keep, lm_head=int4-g32")
    assert "embed_tokens.weight" in model.graph.initializers
    assert not any("shared" in one.detail for one in result.applied)


def test_unknown_sites_are_refused_all_at_once(decoder: Any) -> None:
    with pytest.raises(OptionError) as caught:
        canonical(decoder, "keep, layers.7.mlp.down_proj=fp32, lm_heat=int4-g32")
    assert "'layers.7.mlp.down_proj'; known sites near it: layers.1.mlp.down_proj" in str(caught.value)
    assert "'lm_heat'; known sites near it: lm_head" in str(caught.value)


def test_what_does_not_fit_is_declined_by_site(tiny_decoder: Callable[..., Any]) -> None:
    decoder = tiny_decoder(quantization="Q8_0", feed_forward=96)
    _, result = canonical(decoder, "int4-g64")
    assert {one.site: one.reason for one in result.declined} == {
        f"layers.{layer}.mlp.down_proj": "group 64 of int4-g64 does not divide the layer's 96 inputs"
        for layer in range(2)
    }
    _, result = canonical(decoder, "keep:a8g64")
    reasons = {one.site: one.reason for one in result.declined}
    assert "does not divide the layer's 96 inputs" in reasons["layers.0.mlp.down_proj"]
    assert reasons["lm_head"].endswith("does not divide the weights' block of 32; ask for a8g32")


def test_activations_before_float_weights_stay_and_that_is_said(tiny_decoder: Callable[..., Any]) -> None:
    decoder = tiny_decoder(quantization="F16", embedding_quantization="F32")
    model, result = canonical(decoder, "keep")
    assert not any(one.quantize for one in find_linears(model))
    assert len(result.declined) == 9
    assert all("activations stay in floating point" in one.reason for one in result.declined)


def test_activations_are_not_rounded_twice(decoder: Any) -> None:
    model, _ = canonical(decoder, "keep")
    result = QuantizeActivations({"lm_head": 32})(model)
    assert "rounded already" in result.declined[0].reason


def test_layers_that_read_the_same_share_the_rounding(
    decoder: Any, lines: Callable[[ir.Model], list[str]]
) -> None:
    model = decoder.traced()
    apply_treatments(model)
    nodes = [line for line in lines(model) if "QuantizeActivation(layers.0.input_layernorm)" in line]
    assert len(nodes) == 1
    readers = [line for line in lines(model) if "MatMul(layers.0.self_attn.q_proj.quantize," in line]
    assert len(readers) == 3


def test_a_clone_may_be_treated_again_and_again(decoder: Any) -> None:
    """To revert is to treat another clone of the canonical model."""
    model = decoder.traced()
    normalize(model, expected=Expected(attentions=2, gated=2), capacity=decoder.CAPACITY)
    kept = decoder.cached(model)
    for plan in ("int4-g32", "fp32", "keep"):
        clone = model.clone()
        apply_treatments(clone, default=Plan.parse(plan).default)
        assert not np.array_equal(decoder.cached(clone), kept) or plan == "fp32"
    np.testing.assert_array_equal(decoder.cached(model), kept)


def test_float_weights_are_lazy_and_exact(decoder: Any) -> None:
    model, _ = canonical(decoder, "keep")
    before = {one.site: one.weight.numpy() for one in find_linears(model)}
    model, _ = canonical(decoder, "fp32")
    for one in find_linears(model):
        np.testing.assert_array_equal(one.weight.numpy(), before[one.site])
        assert type(one.weight.stored.codes.const_value).__name__ == "LazyTensor"


def test_activation_rounding_by_hand() -> None:
    row = np.array([[1.0, -0.5, 0.25, 0.0, 0, 0, 0, 0, 127, 126.4, -0.5, 1.5]], np.float32)
    expected = np.array([[127, -64, 32, 0]], np.float32) * np.float32(1 / 127)
    found = round_activations(row, 4)
    np.testing.assert_allclose(found[:, :4], expected, rtol=1e-6)
    np.testing.assert_array_equal(found[:, 4:8], 0)
    np.testing.assert_allclose(found[:, 8:], [[127, 126, 0, 2]], rtol=1e-6)  # half to even


def test_activation_rounding_equals_the_function(
    parse: Callable[..., ir.Model], run: Callable[..., dict[str, np.ndarray]]
) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 96), np.float32)
    x[0, 0, :32] = 0
    text = "g (float[b, s, 96] x) => (float[b, s, 96] y) { y = intaglio.QuantizeActivation<group = 32>(x) }"
    np.testing.assert_array_equal(run(parse(text), x=x)["y"], round_activations(x, 32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WeightFormat(3, 32), "bits is 3"),
        (lambda: WeightFormat(4, 48), "group is 48"),
        (lambda: WeightFormat(4, 32, "log"), "scheme is 'log'"),
        (lambda: ActivationFormat(0), "group is 0"),
        (lambda: Treatment("fp32", ActivationFormat(32)), "fp32 weights take no a8g32"),
        (
            lambda: Treatment(WeightFormat(4, 32), ActivationFormat(64)),
            "64 does not divide the weight group 32",
        ),
    ],
)
def test_bad_formats_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()
