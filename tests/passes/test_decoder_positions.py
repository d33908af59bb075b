"""Decoders of other families: positions of their own, heads with biases and soft-caps, in any chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from intaglio.backends.reference.session import ReferenceSession
from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.ir.invariants import check
from intaglio.passes.normalize import Expected, normalize

HIDDEN, VOCABULARY, CAPACITY = 8, 11, 12
RANDOM = np.random.default_rng(6)


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return RANDOM.standard_normal(shape).astype(np.float32)


WEIGHTS: dict[str, Any] = {
    "words": floats(VOCABULARY, HIDDEN),
    "places": floats(CAPACITY + 3, HIDDEN),
    "f": (0.3 ** np.arange(2)).astype(np.float32),
    "g": 1 + floats(HIDDEN) / 4,
    "b": floats(HIDDEN),
    "qkv": floats(3 * HIDDEN, HIDDEN),
    "head": floats(VOCABULARY, HIDDEN),
    "shift": floats(VOCABULARY),
    "parts": np.array([HIDDEN] * 3),
    "split": np.array([0, 0, 2, 4]),
    "joined": np.array([0, 0, HIDDEN]),
    "i0": np.array(0),
    "i1": np.array(1),
    "two": np.array(2),
    "a0": np.array([0]),
    "a1": np.array([1]),
    "one": np.array(1.0, np.float32),
    "cap": np.array(5.0, np.float32),
}
COUNT = "n1 = Shape<start = 1, end = 2>(input_ids)  n = Squeeze(n1)  r = Range(i0, n, i1)  "
ONES = (
    "sh = Shape(input_ids)  on = Expand(one, sh)  cs = CumSum(on, i1)  m1 = Sub(cs, one)  "
    "pf = Cast<to = 7>(m1)  "
)
POSITIONS = {
    "range of one axis": COUNT + "p = Gather(places, r)  ",
    "range of a row": COUNT + "row = Unsqueeze(r, a0)  p = Gather(places, row)  ",
    "range from two": COUNT + "off = Add(r, two)  row = Unsqueeze(off, a0)  p = Gather(places, row)  ",
    "sum of a mask of ones, from two": ONES + "off = Add(pf, two)  p = Gather(places, off)  ",
    "expanded": COUNT + "sh = Shape(input_ids)  row = Expand(r, sh)  p = Gather(places, row)  ",
    "an input": "p = Gather(places, position_ids)  ",
    "an input, from two": "off = Add(position_ids, two)  p = Gather(places, off)  ",
}
BODY = (
    "e = Gather(words, input_ids)  x = Add(e, p)  n0 = LayerNormalization(x, g, b)  "
    "qt = Transpose<perm = [1, 0]>(qkv)  j = MatMul(n0, qt)  q0, k0, v0 = Split<axis = -1>(j, parts)  "
    "q1 = Reshape(q0, split)  k1 = Reshape(k0, split)  v1 = Reshape(v0, split)  "
    "q = Transpose<perm = [0, 2, 1, 3]>(q1)  k = Transpose<perm = [0, 2, 1, 3]>(k1)  "
    "v = Transpose<perm = [0, 2, 1, 3]>(v1)  o = Attention<is_causal = 1>(q, k, v)  "
    "o1 = Transpose<perm = [0, 2, 1, 3]>(o)  o2 = Reshape(o1, joined)  y = Add(x, o2)  "
    "n2 = LayerNormalization(y, g, b)  ht = Transpose<perm = [1, 0]>(head)  "
)
HEADS = {
    "plain": "logits = MatMul(n2, ht)",
    "bias": "h = MatMul(n2, ht)  logits = Add(h, shift)",
    "soft-cap": "h = MatMul(n2, ht)  d = Div(h, cap)  t = Tanh(d)  logits = Mul(t, cap)",
    "scale before the head": "z = Mul(n2, cap)  logits = MatMul(z, ht)",
}
TOKENS = np.array([[3, 1, 4, 1, 5, 9, 2], [2, 7, 1, 8, 2, 8, 1]])


def decoder(parse: Callable[..., ir.Model], positions: str, head: str = "plain") -> ir.Model:
    body = positions + BODY + HEADS[head]
    used = {
        name: one for name, one in WEIGHTS.items() if any(f"{a}{name}{z}" in body for a in "( " for z in ",)")
    }
    extra = ", int64[batch, sequence] position_ids" if "position_ids" in positions else ""
    text = f"int64[batch, sequence] input_ids{extra}) => (float[batch, sequence, {VOCABULARY}] logits"
    return parse(f"g ({text}) {{ {body} }}", **used)


def whole(model: ir.Model) -> np.ndarray[Any, Any]:
    given = {"input_ids": TOKENS, "position_ids": np.tile(np.arange(7), (2, 1))}
    feeds = {str(one.name): given[str(one.name)] for one in model.graph.inputs}
    return ReferenceSession(model).run(feeds)["logits"].numpy()


def in_chunks(model: ir.Model) -> np.ndarray[Any, Any]:
    session, position, logits = ReferenceSession(model), 0, []
    caches = {f"{kind}_cache.0": np.full((2, 2, CAPACITY, 4), 7, np.float32) for kind in ("key", "value")}
    for size in (3, 1, 3):
        tokens = TOKENS[:, position : position + size]
        outputs = session.run({"input_ids": tokens, "position": np.full(2, position), **caches})
        caches = {name: outputs[f"{name}.updated"].numpy() for name in caches}
        logits.append(outputs["logits"].numpy())
        position += size
    return np.concatenate(logits, 1)


@pytest.mark.parametrize("positions", POSITIONS.values(), ids=POSITIONS.keys())
def test_learned_positions_follow_the_cache(parse: Callable[..., ir.Model], positions: str) -> None:
    model = decoder(parse, positions)
    expected = whole(model)
    result = normalize(model, expected=Expected(1, 0, 2, 0), capacity=CAPACITY)
    assert result.declined == ()
    check(model)
    assert [one.name for one in model.graph.inputs] == [
        "input_ids",
        "position",
        "key_cache.0",
        "value_cache.0",
    ]
    assert sum(node.op_type == "Range" for node in model.graph) == 1
    np.testing.assert_allclose(in_chunks(model), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_the_last_position_under_any_head(parse: Callable[..., ir.Model], head: str) -> None:
    model = decoder(parse, POSITIONS["range of a row"], head)
    expected = whole(model)
    result = normalize(model, expected=None, capacity=CAPACITY, last_position_only=True)
    assert result.declined == ()
    check(model)
    assert model.graph.outputs[0].shape[1] == 1
    np.testing.assert_allclose(in_chunks(model), expected[:, [2, 3, 6]], rtol=1e-4, atol=1e-4)


def test_a_shared_head_is_not_cut(parse: Callable[..., ir.Model]) -> None:
    model = decoder(parse, POSITIONS["range of a row"], "soft-cap")
    tanh = next(node for node in model.graph if node.op_type == "Tanh")
    model.graph.outputs.append(tanh.outputs[0])
    result = normalize(model, expected=None, capacity=CAPACITY, last_position_only=True)
    (declined,) = [one for one in result.declined if one.pass_name == "last_position_logits"]
    assert "has other readers" in declined.reason


REFUSED = {
    "by tokens": ("w = Cast<to = 7>(input_ids)  c = CumSum(w, i1)  p = Gather(places, c)  ", "for tokens"),
    "backwards": (
        COUNT + "back = Sub(n, r)  row = Unsqueeze(back, a0)  p = Gather(places, row)  ",
        "for tokens",
    ),
    "angles in no table": (
        COUNT + "ones = Unsqueeze(r, a0)  p0 = Gather(places, ones)  rf = Cast<to = 1>(r)  "
        "rc = Cos(rf)  rt = Unsqueeze(rc, a1)  p = Mul(p0, rt)  ",
        "in no table",
    ),
}


@pytest.mark.parametrize(("positions", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_positions_that_cannot_follow_are_refused(
    parse: Callable[..., ir.Model], positions: str, reason: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=reason):
        normalize(decoder(parse, positions), expected=None, capacity=CAPACITY)


def test_the_same_row_for_every_token_stays(parse: Callable[..., ir.Model]) -> None:
    kinds = "sh = Shape(input_ids)  kd = Expand(two, sh)  kr = Gather(words, kd)  "
    kinds += "pr = Gather(places, r)  p = Add(pr, kr)  "
    model = decoder(parse, COUNT + kinds)
    expected = whole(model)
    normalize(model, expected=None, capacity=CAPACITY)
    np.testing.assert_allclose(in_chunks(model), expected, rtol=1e-4, atol=1e-4)
