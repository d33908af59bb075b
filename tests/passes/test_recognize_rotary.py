"""Rotary embedding in every spelling becomes one op over tables that are computed when they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from intaglio.compiler.ir.invariants import check
from intaglio.passes.normalize.clean_up import CleanUp
from intaglio.passes.normalize.infer_shapes import InferShapes
from intaglio.passes.normalize.recognize_rotary import RecognizeRotary
from intaglio.passes.normalize.split_slices import SplitSlices

CONTEXT, HEADS, SIZE = 20, 2, 8
RANDOM = np.random.default_rng(4)
WEIGHTS: dict[str, Any] = {
    "f": (0.3 ** np.arange(SIZE // 2)).astype(np.float32),
    "f2": (0.3 ** np.arange(SIZE // 4)).astype(np.float32),
    "ff": np.tile(0.3 ** np.arange(SIZE // 2), 2).astype(np.float32),
    "fc": (0.3 ** np.arange(SIZE // 2)).astype(np.float32)[None, :, None],
    "scaling": np.array(1.25, np.float32),
    "i0": np.array(0),
    "i1": np.array(1),
    "a0": np.array([0]),
    "a1": np.array([1]),
    "a2": np.array([2]),
    "a3": np.array([3]),
    "four": np.array([4]),
    "end": np.array([2**63 - 1]),
    "parts": np.array([4, 4]),
    "half": np.array([2, 2]),
    "a4": np.array([4]),
    "minus": np.array([-1]),
    "two": np.array([2]),
    "ones": np.array([1, 1]),
    "like": np.array([0, 0, -1, SIZE]),
    "wide": np.array([0, -1, SIZE]),
    "pairs": np.array([0, 0, -1, SIZE // 2, 2]),
}
INPUTS = f"int64[batch, sequence] ids, float[batch, {HEADS}, sequence, {SIZE}] x"
OUTPUT = f"float[batch, {HEADS}, sequence, {SIZE}] y"
COUNTED = "n1 = Shape<start = 1, end = 2>(ids)  n = Squeeze(n1)  r = Range(i0, n, i1)  "
ROW = COUNTED + "p = Unsqueeze(r, a0)  "
ANGLES = "p3 = Unsqueeze(p, a2)  pf = Cast<to = 1>(p3)  h = Mul(pf, f)  a = Concat<axis = -1>(h, h)  "
TRIG = "c0 = Cos(a)  s0 = Sin(a)  c = Unsqueeze(c0, a1)  s = Unsqueeze(s0, a1)  "
SLICED = "x1 = Slice(x, a0, four, a3)  x2 = Slice(x, four, end, a3)  "
HALF = SLICED + "nx2 = Neg(x2)  rx = Concat<axis = -1>(nx2, x1)  "
SUM = "xc = Mul(x, c)  xs = Mul(rx, s)  y = Add(xc, xs)"
HALVES = (
    "c0 = Cos(h)  s0 = Sin(h)  c = Unsqueeze(c0, a1)  s = Unsqueeze(s0, a1)  "
    "x1, x2 = Split<axis = -1>(x, parts)  "
    "x1c = Mul(x1, c)  x2s = Mul(x2, s)  x2c = Mul(c, x2)  x1s = Mul(s, x1)  "
)
REPEATED = "h1 = Unsqueeze(h, a3)  h2 = Concat<axis = 3>(h1, h1)  a = Reshape(h2, wide)  "
PICKED = (
    "xp = Reshape(x, pairs)  x1 = Gather<axis = 4>(xp, i0)  xr1, xr2 = Split<axis = 4>(xp, ones)  "
    "x2 = Squeeze(xr2, a4)"
)

SPELLINGS = {
    "rotated half": ROW + ANGLES + TRIG + HALF + SUM,
    "sum turned around": ROW + ANGLES + TRIG + HALF + "xc = Mul(c, x)  xs = Mul(s, rx)  y = Add(xs, xc)",
    "by Split": ROW + ANGLES + TRIG + HALF.replace(SLICED, "x1, x2 = Split<axis = 3>(x, parts)  ") + SUM,
    "halves written out": ROW
    + ANGLES.split("  a =")[0]
    + "  "
    + HALVES
    + "y1 = Sub(x1c, x2s)  y2 = Add(x2c, x1s)  y = Concat<axis = -1>(y1, y2)",
    "scaled": ROW
    + ANGLES
    + "c9 = Cos(a)  s9 = Sin(a)  c0 = Mul(c9, scaling)  s0 = Mul(s9, scaling)  "
    + TRIG.split("  ", 2)[2]
    + HALF
    + SUM,
    "angles by a product of matrices": ROW
    + "p3 = Unsqueeze(p, a1)  pf = Cast<to = 1>(p3)  m = MatMul(fc, pf)  h = Transpose<perm = [0, 2, 1]>(m)  "
    + "a = Concat<axis = -1>(h, h)  "
    + TRIG
    + HALF
    + SUM,
    "angles of one axis": COUNTED
    + "pf = Cast<to = 1>(r)  p3 = Unsqueeze(pf, a1)  a = Mul(p3, ff)  c = Cos(a)  s = Sin(a)  "
    + HALF
    + SUM,
    "positions as an input": ANGLES.replace("Unsqueeze(p,", "Unsqueeze(ids,") + TRIG + HALF + SUM,
    "positions expanded": COUNTED
    + "sh = Shape(ids)  q = Unsqueeze(r, a0)  p = Expand(q, sh)  "
    + ANGLES
    + TRIG
    + HALF
    + SUM,
    "partial": ROW
    + "p3 = Unsqueeze(p, a2)  pf = Cast<to = 1>(p3)  h = Mul(pf, f2)  a = Concat<axis = -1>(h, h)  "
    + TRIG
    + "z, rest = Split<axis = -1>(x, parts)  z1, z2 = Split<axis = -1>(z, half)  nz2 = Neg(z2)  "
    + "rz = Concat<axis = -1>(nz2, z1)  zc = Mul(z, c)  zs = Mul(rz, s)  t = Add(zc, zs)  "
    + "y = Concat<axis = -1>(t, rest)",
    "neighbours, every second": ROW
    + ANGLES.split("  a =")[0]
    + "  "
    + REPEATED
    + TRIG
    + "x1 = Slice(x, a0, end, a3, two)  x2 = Slice(x, a1, end, a3, two)  nx2 = Neg(x2)  "
    + "u1 = Unsqueeze(nx2, a4)  u2 = Unsqueeze(x1, a4)  st = Concat<axis = 4>(u1, u2)  "
    + "rx = Reshape(st, like)  "
    + SUM,
    "neighbours, written out": ROW
    + ANGLES.split("  a =")[0]
    + "  "
    + HALVES.replace("x1, x2 = Split<axis = -1>(x, parts)", PICKED)
    + "y1 = Sub(x1c, x2s)  y2 = Add(x2c, x1s)  u1 = Unsqueeze(y1, minus)  u2 = Unsqueeze(y2, minus)  "
    + "st = Concat<axis = -1>(u1, u2)  y = Reshape(st, like)",
    "the op, with computed cosines": ROW
    + ANGLES.split("  a =")[0]
    + "  c = Cos(h)  s = Sin(h)  sh = Shape<end = 1>(x)  t = Concat<axis = 0>(sh, a1, a1)  "
    + "cb = Expand(c, t)  sb = Expand(s, t)  y = RotaryEmbedding(x, c, s)",
}


def feeds(batch: int = 1) -> dict[str, np.ndarray[Any, Any]]:
    x = RANDOM.standard_normal((batch, HEADS, 5, SIZE)).astype(np.float32)
    return {"ids": np.tile(np.arange(5), (batch, 1)), "x": x}


def spelled(
    parse: Callable[..., ir.Model], body: str, inputs: str = INPUTS, output: str = OUTPUT
) -> ir.Model:
    used = {
        name: one for name, one in WEIGHTS.items() if any(f"{a}{name}{z}" in body for a in "( " for z in ",)")
    }
    model = parse(f"g ({inputs}) => ({output}) {{ {body} }}", **used)
    for one in (InferShapes(), CleanUp(), SplitSlices()):
        one(model)
    return model


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_becomes_one_node(
    parse: Callable[..., ir.Model], run: Callable[..., dict[str, np.ndarray]], name: str
) -> None:
    model, given = spelled(parse, SPELLINGS[name]), feeds()
    expected = run(model, **given)["y"]
    result = RecognizeRotary(CONTEXT, expected=1)(model)
    assert result.declined == ()
    check(model)
    (rotary,) = [node for node in model.graph if node.op_type == "RotaryEmbedding"]
    assert rotary.outputs[0].name == "y"
    assert not [node for node in model.graph if node.op_type in ("Cos", "Sin", "Mul")]
    assert rotary.attributes.get_int("interleaved", 0) == int("neighbours" in name)
    columns = rotary.attributes.get_int("rotary_embedding_dim", 0) or SIZE
    for value in rotary.inputs[1:3]:
        assert value.shape == (CONTEXT, columns // 2)
        assert isinstance(value.const_value, ir.LazyTensor)
    np.testing.assert_allclose(run(model, **given)["y"], expected, rtol=1e-5, atol=1e-6)


def test_layers_share_tables_and_other_frequencies_get_their_own(parse: Callable[..., ir.Model]) -> None:
    first = SPELLINGS["rotated half"]
    again = "xa = Neg(x)  xc_ = Mul(xa, c)  xd, xe = Split<axis = -1>(xa, parts)  xn = Neg(xe)  "
    again += "xr = Concat<axis = -1>(xn, xd)  xs_ = Mul(xr, s)  z = Add(xc_, xs_)  "
    other = "g = Mul(pf, ff)  gc = Cos(g)  gs = Sin(g)  gc4 = Unsqueeze(gc, a1)  gs4 = Unsqueeze(gs, a1)  "
    other += "xo = Mul(x, gc4)  xp = Mul(rx, gs4)  w = Add(xo, xp)"
    outputs = f"{OUTPUT}, {OUTPUT[:-1]}z, {OUTPUT[:-1]}w"
    model = spelled(parse, f"{first}  {again}{other}", output=outputs)
    model.graph.initializers["ff"].const_value = ir.tensor(WEIGHTS["ff"] / 2)
    assert len(RecognizeRotary(CONTEXT)(model).applied) == 3
    tables = [node.inputs[1] for node in model.graph if node.op_type == "RotaryEmbedding"]
    assert tables[0] is tables[1]
    assert tables[0] is not tables[2]


def test_sequences_before_heads_are_turned(
    parse: Callable[..., ir.Model], run: Callable[..., dict[str, np.ndarray]]
) -> None:
    shape = f"float[batch, sequence, {HEADS}, {SIZE}]"
    body = SPELLINGS["rotated half"].replace("Unsqueeze(c0, a1)", "Unsqueeze(c0, a2)")
    body = body.replace("Unsqueeze(s0, a1)", "Unsqueeze(s0, a2)")
    model = spelled(parse, body, f"int64[batch, sequence] ids, {shape} x", f"{shape} y")
    given = {name: one.transpose(0, 2, 1, 3) if name == "x" else one for name, one in feeds().items()}
    expected = run(model, **given)["y"]
    RecognizeRotary(CONTEXT, expected=1)(model)
    assert [node.op_type for node in model.graph][-3:] == ["Transpose", "RotaryEmbedding", "Transpose"]
    np.testing.assert_allclose(run(model, **given)["y"], expected, rtol=1e-5, atol=1e-6)


DECLINED = {
    "halves differ": (
        ROW + ANGLES.replace("Concat<axis = -1>(h, h)", "Mul(pf, ff)") + TRIG + HALF + SUM,
        "differ",
    ),
    "two positions": (
        ROW + "p3 = Unsqueeze(p, a2)  pf = Cast<to = 1>(p3)  i3 = Unsqueeze(ids, a2)  jf = Cast<to = 1>(i3)  "
        "u = Mul(pf, f)  v = Mul(jf, f)  h = Add(u, v)  a = Concat<axis = -1>(h, h)  " + TRIG + HALF + SUM,
        "not from one value of positions",
    ),
    "depends on the longest": (
        ROW + "p3 = Unsqueeze(p, a2)  pf = Cast<to = 1>(p3)  most = ReduceMax<keepdims = 1>(pf)  "
        "o = Add(most, scaling)  "
        "pn = Div(pf, o)  h = Mul(pn, f)  a = Concat<axis = -1>(h, h)  " + TRIG + HALF + SUM,
        "depend on the other positions",
    ),
}


@pytest.mark.parametrize("name", DECLINED)
def test_near_misses_are_explained_and_left_alone(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]], name: str
) -> None:
    body, reason = DECLINED[name]
    model = spelled(parse, body)
    if name == "halves differ":
        model.graph.initializers["ff"].const_value = ir.tensor(np.arange(SIZE, dtype=np.float32))
    before = lines(model)
    result = RecognizeRotary(CONTEXT, expected=1)(model)
    assert lines(model) == before
    assert result.declined[0].reason == "expected 1 rotary embeddings, found 0"
    assert reason in result.declined[1].reason


def test_without_a_context_cosines_stay_computed(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]]
) -> None:
    model = spelled(parse, SPELLINGS["rotated half"])
    before = lines(model)
    (declined,) = RecognizeRotary(None)(model).declined
    assert "the number of positions is not known" in declined.reason
    assert lines(model) == before


def test_cosines_of_one_sequence_are_spread_over_a_batch(parse: Callable[..., ir.Model]) -> None:
    """As torch's exporter fuses it; onnxruntime refuses that for more than one sequence."""
    pytest.importorskip("onnxruntime")
    from intaglio.backends.onnxruntime.session import OnnxRuntimeSession

    body = ROW + ANGLES.split("  a =")[0] + "  c = Cos(h)  s = Sin(h)  y = RotaryEmbedding(x, c, s)"
    model, tables = spelled(parse, body), spelled(parse, body)
    RecognizeRotary(CONTEXT)(tables)
    assert [one.detail for one in RecognizeRotary(None)(model).applied] == [
        "cosines and sines for every sequence of a batch"
    ]
    given = feeds(3)
    found = OnnxRuntimeSession(model, threads=1).run(given)["y"]
    one_by_one = OnnxRuntimeSession(tables, threads=1)
    for row in range(3):
        single = {name: one[row : row + 1] for name, one in given.items()}
        names = {str(one.name) for one in tables.graph.inputs}
        expected = one_by_one.run({name: one for name, one in single.items() if name in names})["y"]
        np.testing.assert_allclose(found[row : row + 1], expected, rtol=1e-5, atol=1e-6)
