"""Attention as exporters write it, over sizes that are not known: masks, transposes, soft-caps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from intaglio.compiler.ir.invariants import check
from intaglio.passes.normalize.infer_shapes import InferShapes
from intaglio.passes.normalize.recognize_attention import RecognizeAttention
from intaglio.passes.normalize.split_heads import SplitHeads

HEADS, SIZE = 2, 4
FLAT = "float[batch, sequence, 8]"
INPUTS = f"{FLAT} q, {FLAT} k, {FLAT} v, int64[batch, sequence] mask, float[1, 2, sequence, sequence] bias"
WEIGHTS: dict[str, Any] = {
    "heads": np.array([0, 0, HEADS, SIZE]),
    "joined": np.array([0, 0, HEADS * SIZE]),
    "minus": np.array([-1]),
    "four": np.array([SIZE]),
    "factor": np.array(0.5, np.float32),
    "root": np.array(0.5**0.5, np.float32),
    "limit": np.array(3.0, np.float32),
    "one": np.array(1.0, np.float32),
    "zero": np.array(0.0, np.float32),
    "low": np.array(np.finfo(np.float32).min, np.float32),
    "never": np.array(-np.inf, np.float32),
    "i0": np.array(0),
    "i1": np.array(1),
    "a0": np.array([0]),
    "a1": np.array([1]),
    "a01": np.array([0, 1]),
    "a12": np.array([1, 2]),
    "zeros": np.array([0.0], np.float32),
    "true": np.array(True),
}
SPLIT = (
    "q4 = Reshape(q, heads)  qh = Transpose<perm = [0, 2, 1, 3]>(q4)  "
    "k4 = Reshape(k, heads)  kt = Transpose<perm = [0, 2, 3, 1]>(k4)  "
    "v4 = Reshape(v, heads)  vh = Transpose<perm = [0, 2, 1, 3]>(v4)  "
)
END = (
    "p = Softmax<axis = -1>(m)  o = MatMul(p, vh)  t = Transpose<perm = [0, 2, 1, 3]>(o)  "
    "y = Reshape(t, joined)"
)
SCALED = "qk = MatMul(qh, kt)  s = Mul(qk, factor)  "
COUNT = (
    "n1 = Shape<start = 1, end = 2>(q)  n = Squeeze(n1)  r = Range(i0, n, i1)  "
    "keys = Unsqueeze(r, a0)  queries = Unsqueeze(r, a1)  "
)
PADDING = "mi = Unsqueeze(mask, a12)  mf = Cast<to = 1>(mi)  inv = Sub(one, mf)  pad = Mul(inv, low)  "
SQUARE = "square = Concat<axis = 0>(n1, n1)  "

# body, whether it is causal, and the kind of mask that stays
SPELLINGS: dict[str, tuple[str, bool, ir.DataType | None]] = {
    "no mask": (SPLIT + SCALED.replace("s = Mul", "m = Mul") + END, False, None),
    "scale on both sides": (
        SPLIT + "qs = Mul(qh, root)  ks = Mul(kt, root)  m = MatMul(qs, ks)  " + END,
        False,
        None,
    ),
    "keys scaled before they are turned": (
        SPLIT.replace(
            "kt = Transpose<perm = [0, 2, 3, 1]>(k4)",
            "ks = Mul(k4, root)  kt = Transpose<perm = [0, 2, 3, 1]>(ks)",
        )
        + "qs = Mul(root, qh)  m = MatMul(qs, kt)  "
        + END,
        False,
        None,
    ),
    "soft-cap": (
        SPLIT + SCALED + "d = Div(s, limit)  th = Tanh(d)  m = Mul(th, limit)  " + END,
        False,
        None,
    ),
    "softmax in float32 between casts": (
        SPLIT
        + SCALED
        + "m = Cast<to = 1>(s)  p = Softmax<axis = 3>(m)  pc = Cast<to = 1>(p)  "
        + END.split("  ", 1)[1].replace("(p, vh)", "(pc, vh)"),
        False,
        None,
    ),
    "causal by comparison": (
        SPLIT + SCALED + COUNT + "c = LessOrEqual(keys, queries)  m = Where(c, s, low)  " + END,
        True,
        None,
    ),
    "causal by comparison with the next": (
        SPLIT
        + SCALED
        + COUNT
        + "next = Add(queries, i1)  c = Greater(next, keys)  m = Where(c, s, never)  "
        + END,
        True,
        None,
    ),
    "causal by dropping later keys": (
        SPLIT + SCALED + COUNT + "c = Less(queries, keys)  m = Where(c, low, s)  " + END,
        True,
        None,
    ),
    "causal by an added choice": (
        SPLIT + SCALED + COUNT + "c = GreaterOrEqual(queries, keys)  a = Where(c, zero, low)  "
        "a4 = Unsqueeze(a, a01)  m = Add(s, a4)  " + END,
        True,
        None,
    ),
    "causal by a triangle of ones": (
        SPLIT + SCALED + COUNT + SQUARE + "ones = Expand(true, square)  c = Trilu<upper = 0>(ones)  "
        "m = Where(c, s, low)  " + END,
        True,
        None,
    ),
    "causal by an added triangle": (
        SPLIT + SCALED + COUNT + SQUARE + "full = Expand(never, square)  c = Trilu<upper = 1>(full, i1)  "
        "m = Add(s, c)  " + END,
        True,
        None,
    ),
    "padding by arithmetic": (SPLIT + SCALED + PADDING + "m = Add(s, pad)  " + END, False, ir.DataType.BOOL),
    "padding by a choice": (
        SPLIT + SCALED + "mi = Unsqueeze(mask, a12)  none = Equal(mi, i0)  m = Where(none, low, s)  " + END,
        False,
        ir.DataType.BOOL,
    ),
    "padding, expanded": (
        SPLIT + SCALED + PADDING + "sh = Shape(s)  wide = Expand(pad, sh)  m = Add(wide, s)  " + END,
        False,
        ir.DataType.BOOL,
    ),
    "causal and padding, both added": (
        SPLIT + SCALED + COUNT + PADDING + "c = LessOrEqual(keys, queries)  a = Where(c, zero, low)  "
        "both = Add(a, pad)  m = Add(s, both)  " + END,
        True,
        ir.DataType.BOOL,
    ),
    "causal and padding as one boolean": (
        SPLIT + SCALED + COUNT + "mi = Unsqueeze(mask, a12)  mb = Cast<to = 9>(mi)  "
        "c = LessOrEqual(keys, queries)  both = And(c, mb)  m = Where(both, s, low)  " + END,
        True,
        ir.DataType.BOOL,
    ),
    "relative bias": (SPLIT + SCALED + "m = Add(s, bias)  " + END, False, ir.DataType.FLOAT),
    "relative bias and padding": (
        SPLIT + SCALED + PADDING + "b = Add(bias, pad)  m = Add(s, b)  " + END,
        False,
        ir.DataType.FLOAT,
    ),
    "batch and heads joined": (
        SPLIT + COUNT + "rows = Concat<axis = 0>(minus, n1, four)  kh = Transpose<perm = [0, 2, 1, 3]>(k4)  "
        "q3 = Reshape(qh, rows)  k3 = Reshape(kh, rows)  v3 = Reshape(vh, rows)  "
        "kt3 = Transpose<perm = [0, 2, 1]>(k3)  qk = MatMul(q3, kt3)  m = Mul(qk, factor)  "
        "p = Softmax<axis = -1>(m)  o3 = MatMul(p, v3)  whole = Shape(qh)  o = Reshape(o3, whole)  "
        + END.split("  ", 2)[2],
        False,
        None,
    ),
}


def feeds() -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(3)
    given = {name: random.standard_normal((3, 5, 8)).astype(np.float32) for name in "qkv"}
    given["mask"] = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 1, 0, 1]])
    given["bias"] = random.standard_normal((1, 2, 5, 5)).astype(np.float32)
    return given


def spelled(parse: Callable[..., ir.Model], body: str) -> ir.Model:
    used = {
        name: one
        for name, one in WEIGHTS.items()
        if any(f"{mark}{name}{end}" in body for mark in "( " for end in ",)")
    }
    model = parse(f"g ({INPUTS}) => ({FLAT} y) {{ {body} }}", **used)
    InferShapes()(model)
    for value in (node.outputs[0] for node in model.graph):
        if value.name in ("qh", "kh", "vh"):  # onnx forgets the names of sizes that a Reshape copies
            value.shape = ir.Shape(["batch", HEADS, "sequence", SIZE])
        elif value.name in ("q3", "k3", "v3"):
            value.shape = ir.Shape(["rows", "sequence", SIZE])
    return model


@pytest.mark.parametrize(("body", "causal", "mask"), SPELLINGS.values(), ids=SPELLINGS.keys())
def test_every_spelling_becomes_one_attention(
    parse: Callable[..., ir.Model],
    run: Callable[..., dict[str, np.ndarray]],
    body: str,
    causal: bool,
    mask: ir.DataType | None,
) -> None:
    model = spelled(parse, body)
    expected = run(model, **feeds())["y"]
    result = RecognizeAttention(expected=1)(model)
    assert result.declined == ()
    check(model)
    (attention,) = [node for node in model.graph if node.op_type == "Attention"]
    assert not [node for node in model.graph if node.op_type == "Softmax"]
    assert attention.attributes["is_causal"].as_int() == int(causal)
    assert attention.attributes["scale"].as_float() == pytest.approx(0.5, rel=1e-6)
    given = attention.inputs[3] if len(attention.inputs) > 3 else None
    assert (None if given is None else given.dtype) == mask
    np.testing.assert_allclose(run(model, **feeds())["y"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["padding by arithmetic", "causal and padding as one boolean", "relative bias"]
)
def test_onnxruntime_takes_the_masks(
    parse: Callable[..., ir.Model], run: Callable[..., dict[str, np.ndarray]], name: str
) -> None:
    pytest.importorskip("onnxruntime")
    from intaglio.backends.onnxruntime.session import OnnxRuntimeSession

    model = spelled(parse, SPELLINGS[name][0])
    expected = run(model, **feeds())["y"]
    RecognizeAttention()(model)
    given = {str(one.name): feeds()[str(one.name)] for one in model.graph.inputs}
    found = OnnxRuntimeSession(model, threads=1).run(given)["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


NOT_CAUSAL = {
    "later keys only": "c = Less(queries, keys)  m = Where(c, s, low)  ",
    "without itself": "c = Less(keys, queries)  m = Where(c, s, low)  ",
    "window": "far = Add(keys, i1)  w = Greater(far, queries)  m = Where(w, s, low)  ",
}


@pytest.mark.parametrize("name", NOT_CAUSAL)
def test_other_comparisons_are_not_causal(
    parse: Callable[..., ir.Model], run: Callable[..., dict[str, np.ndarray]], name: str
) -> None:
    model = spelled(parse, SPLIT + SCALED + COUNT + NOT_CAUSAL[name] + END)
    # What a query without any key gives is left open: compared are the others.
    rows = slice(1, -1)
    expected = run(model, **feeds())["y"][:, rows]
    RecognizeAttention(expected=1)(model)
    (attention,) = [node for node in model.graph if node.op_type == "Attention"]
    assert attention.attributes["is_causal"].as_int() == 0
    np.testing.assert_allclose(run(model, **feeds())["y"][:, rows], expected, rtol=1e-5, atol=1e-5)


def test_a_classifier_is_no_attention(
    parse: Callable[..., ir.Model], lines: Callable[..., list[str]]
) -> None:
    text = "g (float[b, 8] x) => (float[b, 3] y) { m = MatMul(x, w)  y = Softmax<axis = -1>(m) }"
    model = parse(text, w=np.ones((8, 3), np.float32))
    before = lines(model)
    result = RecognizeAttention()(model)
    assert (result.applied, result.declined, lines(model)) == ((), (), before)


def test_joined_heads_are_split(
    parse: Callable[..., ir.Model], lines: Callable[..., list[str]], run: Callable[..., dict[str, np.ndarray]]
) -> None:
    body = "y = Attention<is_causal = 1, q_num_heads = 4, kv_num_heads = 2>(q, k, k)"
    model = parse(f"g ({FLAT} q, float[batch, sequence, 4] k) => ({FLAT} y) {{ {body} }}")
    random = np.random.default_rng(0)
    given = {"q": random.standard_normal((2, 3, 8)), "k": random.standard_normal((2, 3, 4))}
    given = {name: one.astype(np.float32) for name, one in given.items()}
    expected = run(model, **given)["y"]
    assert len(SplitHeads()(model).applied) == 1
    (attention,) = [line for line in lines(model) if "Attention(" in line]
    assert attention.endswith("is_causal=1")
    np.testing.assert_allclose(run(model, **given)["y"], expected, rtol=1e-6, atol=1e-6)
    assert not SplitHeads()(model).modified
