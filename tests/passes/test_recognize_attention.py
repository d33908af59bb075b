"""Attention spelled out, over repeated heads: what is recognised, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from intaglio.passes.normalize.infer_shapes import InferShapes
from intaglio.passes.normalize.recognize_attention import RecognizeAttention

HEADS, KV_HEADS, LENGTH, SIZE = 4, 2, 5, 8
KV_SHAPE = f"float[1, {KV_HEADS}, {LENGTH}, {SIZE}]"
INPUTS = f"float[1, {HEADS}, {LENGTH}, {SIZE}] q, {KV_SHAPE} k, {KV_SHAPE} v"
OUTPUT = f"float[1, {HEADS}, {LENGTH}, {SIZE}] y"
CAUSAL = np.tri(LENGTH, dtype=np.bool_)
ADDITIVE = np.where(CAUSAL, 0, -np.inf).astype(np.float32)
WEIGHTS = {
    "two": np.array([2], np.int64),
    "repeats": np.array([1, 1, HEADS // KV_HEADS, 1, 1], np.int64),
    "four": np.array([0, HEADS, LENGTH, SIZE], np.int64),
    "indices": np.array([0, 0, 1, 1], np.int64),
    "mask": ADDITIVE,
    "factor": np.array(SIZE**-0.5, np.float32),
    "divisor": np.array(SIZE**0.5, np.float32),
    "low": np.array(-1e30, np.float32),
}


def repeated(letter: str, op: str = "Expand") -> str:
    chain = "@5 = Unsqueeze(@, two)  @6 = OP(@5, repeats)  @r = Reshape(@6, four)  "
    return chain.replace("@", letter).replace("OP", op)


def spelled(scores: str = "s = Mul(qk, factor)  m = Add(s, mask)  ", repeats: str | None = None) -> str:
    start = repeats if repeats is not None else repeated("k") + repeated("v")
    return (
        f"{start}kt = Transpose<perm = [0, 1, 3, 2]>(kr)  qk = MatMul(q, kt)  {scores}"
        "p = Softmax<axis = -1>(m)  y = MatMul(p, vr)"
    )


def graph(body: str) -> str:
    return f"g ({INPUTS}) => ({OUTPUT}) {{ {body} }}"


def inputs() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    shapes = {"q": HEADS, "k": KV_HEADS, "v": KV_HEADS}
    return {
        name: random.standard_normal((1, heads, LENGTH, SIZE), np.float32) for name, heads in shapes.items()
    }


FIRING = {
    "additive mask": (spelled(), {}),
    "mask of the least float": (
        spelled(),
        {"mask": np.where(CAUSAL, 0, np.finfo(np.float32).min).astype(np.float32)},
    ),
    "mask with leading axes": (spelled(), {"mask": ADDITIVE[None, None]}),
    "mask first": (spelled("s = Mul(factor, qk)  m = Add(mask, s)  "), {}),
    "boolean mask": (spelled("s = Div(qk, divisor)  m = Where(mask, s, low)  "), {"mask": CAUSAL}),
    "tiled heads": (spelled(repeats=repeated("k", "Tile") + repeated("v", "Tile")), {}),
    "gathered heads": (
        spelled(repeats="kr = Gather<axis = 1>(k, indices)  vr = Gather<axis = 1>(v, indices)  "),
        {},
    ),
}


@pytest.mark.parametrize(("body", "changed"), FIRING.values(), ids=FIRING.keys())
def test_spelled_out_attention_becomes_grouped(
    parse: Callable[..., ir.Model],
    lines: Callable[[ir.Model], list[str]],
    run: Callable[..., dict[str, np.ndarray]],
    body: str,
    changed: dict[str, Any],
) -> None:
    model = parse(graph(body), **{**WEIGHTS, **changed})
    InferShapes()(model)
    expected = run(model, **inputs())["y"]
    result = RecognizeAttention(expected=1)(model)
    scale = np.float32(SIZE**-0.5)
    assert [line.split(" scale")[0] for line in lines(model)] == ["y = Attention(q, k, v) is_causal=1"]
    assert model.graph[-1].attributes["scale"].as_float() == pytest.approx(scale, rel=1e-6)
    assert result.declined == ()
    np.testing.assert_allclose(run(model, **inputs())["y"], expected, rtol=1e-5, atol=1e-6)


def test_no_mask_means_not_causal_and_scaled_queries_count(
    parse: Callable[..., ir.Model],
    lines: Callable[[ir.Model], list[str]],
    run: Callable[..., dict[str, np.ndarray]],
) -> None:
    body = spelled("m = Identity(qk)  ").replace("m = Identity(qk)  ", "").replace("(m)", "(qk)")
    model = parse(
        graph(body.replace("qk = MatMul(q, kt)", "qs = Mul(q, factor)  qk = MatMul(qs, kt)")), **WEIGHTS
    )
    InferShapes()(model)
    expected = run(model, **inputs())["y"]
    RecognizeAttention()(model)
    assert lines(model)[0].startswith("y = Attention(q, k, v) is_causal=0")
    np.testing.assert_allclose(run(model, **inputs())["y"], expected, rtol=1e-5, atol=1e-6)


KEPT_MASKS = {
    "no triangle": (spelled(), {"mask": np.zeros((LENGTH, LENGTH), np.float32)}),
    "too weak": (spelled(), {"mask": np.where(CAUSAL, 0, -5).astype(np.float32)}),
    "one row": (spelled(), {"mask": ADDITIVE[-1:]}),
    "booleans, not causal": (
        spelled("s = Div(qk, divisor)  m = Where(mask, s, low)  "),
        {"mask": CAUSAL.T | CAUSAL[::-1]},
    ),
}


@pytest.mark.parametrize(("body", "changed"), KEPT_MASKS.values(), ids=KEPT_MASKS.keys())
def test_other_constant_masks_become_an_input(
    parse: Callable[..., ir.Model],
    run: Callable[..., dict[str, np.ndarray]],
    body: str,
    changed: dict[str, Any],
) -> None:
    model = parse(graph(body), **{**WEIGHTS, **changed})
    InferShapes()(model)
    expected = run(model, **inputs())["y"]
    RecognizeAttention(expected=1)(model)
    attention = model.graph[-1]
    assert attention.op_type == "Attention"
    assert attention.attributes["is_causal"].as_int() == 0
    assert attention.inputs[3] is not None
    np.testing.assert_allclose(run(model, **inputs())["y"], expected, rtol=1e-5, atol=1e-6)


DECLINED = {
    "mask is scaled": (
        spelled("a = Add(qk, mask)  m = Mul(a, factor)  "),
        {},
        "is scaled with them",
    ),
    "mask is soft-capped": (
        spelled("a = Add(qk, mask)  d = Mul(a, factor)  t = Tanh(d)  m = Mul(t, divisor)  "),
        {},
        "before the soft-cap",
    ),
    "masked scores are high": (
        spelled("s = Div(qk, divisor)  m = Where(mask, s, low)  "),
        {"mask": CAUSAL, "low": np.array(-5, np.float32)},
        "masked scores are -5",
    ),
    "other axis": (spelled().replace("axis = -1", "axis = 2"), {}, "not along the last axis"),
    "heads out of order": (
        spelled(repeats="kr = Gather<axis = 1>(k, indices)  vr = Gather<axis = 1>(v, indices)  "),
        {"indices": np.array([0, 1, 0, 1], np.int64)},
        "each repeated in place",
    ),
    "repeated along another axis": (
        spelled(),
        {"two": np.array([1], np.int64), "repeats": np.array([1, 2, 1, 1, 1], np.int64)},
        "adds axis [1]",
    ),
    "only keys repeated": (
        spelled(repeats=repeated("k") + "vr = Concat<axis = 1>(v, v)  "),
        {},
        "only one of key and value",
    ),
}


@pytest.mark.parametrize(("body", "changed", "reason"), DECLINED.values(), ids=DECLINED.keys())
def test_near_misses_are_explained_and_left_alone(
    parse: Callable[..., ir.Model],
    lines: Callable[[ir.Model], list[str]],
    body: str,
    changed: dict[str, Any],
    reason: str,
) -> None:
    model = parse(graph(body), **{**WEIGHTS, **changed})
    InferShapes()(model)
    before = lines(model)
    result = RecognizeAttention(expected=1)(model)
    assert lines(model) == before
    assert result.declined[0].reason == "expected 1 Attention, found 0"
    assert reason in result.declined[1].reason
    assert result.declined[1].site == "p"


def test_probabilities_with_a_second_reader_are_left(parse: Callable[..., ir.Model]) -> None:
    text = graph(spelled() + "  z = Neg(p)").replace(OUTPUT, f"{OUTPUT}, float[1, 4, 5, 5] z")
    model = parse(text, **WEIGHTS)
    InferShapes()(model)
    result = RecognizeAttention()(model)
    assert "2 readers" in result.declined[0].reason


def test_an_attention_node_loses_repeats_and_mask(
    parse: Callable[..., ir.Model],
    lines: Callable[[ir.Model], list[str]],
    run: Callable[..., dict[str, np.ndarray]],
) -> None:
    body = repeated("k") + repeated("v") + "y = Attention(q, kr, vr, mask)"
    model = parse(graph(body), **{**WEIGHTS, "mask": CAUSAL})
    expected = run(model, **inputs())["y"]
    result = RecognizeAttention(expected=1)(model)
    assert lines(model) == ["y = Attention(q, k, v) is_causal=1"]
    assert [one.detail for one in result.applied] == ["causal mask → is_causal", "repeated heads removed"]
    np.testing.assert_allclose(run(model, **inputs())["y"], expected, rtol=1e-5, atol=1e-6)


def test_a_canonical_attention_is_left_without_a_word(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]]
) -> None:
    model = parse(graph("y = Attention<is_causal = 1>(q, k, v)"))
    result = RecognizeAttention(expected=1)(model)
    assert lines(model) == ["y = Attention(q, k, v) is_causal=1"]
    assert (result.applied, result.declined) == ((), ())
