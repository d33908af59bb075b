"""RMS and layer norms in every spelling, with the numbers of the original."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from intaglio.compiler.ir.invariants import check
from intaglio.passes.normalize.clean_up import CleanUp
from intaglio.passes.normalize.fold_vectors import FoldVectors
from intaglio.passes.normalize.infer_shapes import InferShapes
from intaglio.passes.normalize.recognize_norms import RecognizeNorms

WIDTH = 6
RANDOM = np.random.default_rng(2)
WEIGHTS: dict[str, Any] = {
    "w": RANDOM.standard_normal(WIDTH).astype(np.float32),
    "wh": RANDOM.standard_normal(WIDTH).astype(np.float16),
    "b": RANDOM.standard_normal(WIDTH).astype(np.float32),
    "eps": np.array(1e-3, np.float32),
    "two": np.array(2, np.float32),
    "one": np.array(1, np.float32),
    "minus": np.array(-0.5, np.float32),
    "half": np.array(0.5, np.float32),
    "last": np.array([-1]),
    "first": np.array([1]),
}
MEAN = "sq = Pow(x, two)  mean = ReduceMean<keepdims = 1>(sq, last)  sum = Add(mean, eps)  "
ROOT = MEAN + "root = Sqrt(sum)  "
CENTER = "mu = ReduceMean<keepdims = 1>(x, last)  d = Sub(x, mu)  "
VARIANCE = (
    CENTER
    + "sq = Mul(d, d)  var = ReduceMean<keepdims = 1>(sq, last)  sum = Add(eps, var)  root = Sqrt(sum)  "
)

SPELLINGS = {
    "square root and division": (ROOT + "n = Div(x, root)  y = Mul(w, n)", "RMSNormalization(x, w)"),
    "square as a product": (
        ROOT.replace("Pow(x, two)", "Mul(x, x)") + "n = Div(x, root)  y = Mul(n, w)",
        "RMSNormalization(x, w)",
    ),
    "reciprocal": (ROOT + "r = Reciprocal(root)  n = Mul(r, x)  y = Mul(n, w)", "RMSNormalization(x, w)"),
    "one by the root": (ROOT + "r = Div(one, root)  n = Mul(x, r)  y = Mul(w, n)", "RMSNormalization(x, w)"),
    "a negative power": (
        MEAN + "r = Pow(sum, minus)  n = Mul(x, r)  y = Mul(n, w)",
        "RMSNormalization(x, w)",
    ),
    "a power of a half": (
        MEAN + "r = Pow(sum, half)  n = Div(x, r)  y = Mul(n, w)",
        "RMSNormalization(x, w)",
    ),
    "no weight": (ROOT + "y = Div(x, root)", "RMSNormalization(x, )"),
    "one more than the weight": (
        ROOT + "n = Div(x, root)  v = Add(one, w)  y = Mul(n, v)",
        "RMSNormalization(x, w)",
    ),
    "a half weight, widened and raised": (
        ROOT + "n = Div(x, root)  wf = Cast<to = 1>(wh)  v = Add(wf, one)  y = Mul(n, v)",
        "RMSNormalization(x, wh)",
    ),
    "layer norm": (
        VARIANCE + "n = Div(d, root)  s = Mul(n, w)  y = Add(s, b)",
        "LayerNormalization(x, w, b)",
    ),
    "layer norm, centred twice": (
        VARIANCE + "mu2 = ReduceMean<keepdims = 1>(x, last)  d2 = Sub(x, mu2)  n = Div(d2, root)  "
        "s = Mul(w, n)  y = Add(b, s)",
        "LayerNormalization(x, w, b)",
    ),
    "layer norm without bias": (VARIANCE + "n = Div(d, root)  y = Mul(n, w)", "LayerNormalization(x, w)"),
    "layer norm without weight": (VARIANCE + "y = Div(d, root)", "LayerNormalization(x, )"),
}


def graph(body: str) -> str:
    return f"g (float[batch, sequence, {WIDTH}] x) => (float[batch, sequence, {WIDTH}] y) {{ {body} }}"


def spelled(parse: Callable[..., ir.Model], body: str, text: str | None = None) -> ir.Model:
    used = {
        name: one for name, one in WEIGHTS.items() if any(f"{a}{name}{z}" in body for a in "( " for z in ",)")
    }
    model = parse(text or graph(body), **used)
    for one in (InferShapes(), CleanUp(), FoldVectors()):
        one(model)
    return model


@pytest.mark.parametrize(("body", "after"), SPELLINGS.values(), ids=SPELLINGS.keys())
def test_every_spelling_becomes_one_node(
    parse: Callable[..., ir.Model],
    lines: Callable[[ir.Model], list[str]],
    run: Callable[..., dict[str, np.ndarray]],
    body: str,
    after: str,
) -> None:
    x = RANDOM.standard_normal((2, 3, WIDTH)).astype(np.float32)
    model = spelled(parse, body)
    expected = run(model, x=x)["y"]
    result = RecognizeNorms(expected=1)(model)
    assert result.declined == ()
    check(model)
    (line,) = lines(model)
    assert line.startswith(f"y = {after.removesuffix(')')}" if after.endswith(", )") else f"y = {after}")
    assert model.graph[-1].attributes["epsilon"].as_float() == pytest.approx(1e-3)
    np.testing.assert_allclose(run(model, x=x)["y"], expected, rtol=1e-5, atol=1e-6)


HALF = "xf = Cast<to = 1>(x)  " + ROOT.replace("Pow(x,", "Pow(xf,") + "n = Div(xf, root)  "
CASTS = {
    "weight after the cast back": (
        HALF + "nh = Cast<to = 10>(n)  y = Mul(wh, nh)",
        ["y = RMSNormalization(x, wh)"],
    ),
    "weight before the cast back": (
        HALF + "s = Mul(n, w)  y = Cast<to = 10>(s)",
        ["xf = Cast(x)", "s = RMSNormalization(xf, w)", "y = Cast(s)"],
    ),
}


@pytest.mark.parametrize(("body", "after"), CASTS.values(), ids=CASTS.keys())
def test_casts_around_half_precision(
    parse: Callable[..., ir.Model],
    lines: Callable[[ir.Model], list[str]],
    run: Callable[..., dict[str, np.ndarray]],
    body: str,
    after: list[str],
) -> None:
    x = RANDOM.standard_normal((2, 3, WIDTH)).astype(np.float16)
    model = spelled(parse, body, graph(body).replace("float[", "float16["))
    expected = run(model, x=x)["y"].astype(np.float32)
    RecognizeNorms(expected=1)(model)
    assert [line.split(" to=")[0].split(" axis=")[0] for line in lines(model)] == after
    np.testing.assert_allclose(run(model, x=x)["y"].astype(np.float32), expected, rtol=2e-3, atol=1e-3)


def test_norms_over_the_size_of_a_head(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]]
) -> None:
    body = ROOT + "n = Div(x, root)  y = Mul(n, w)"
    text = graph(body).replace("[batch, sequence,", "[batch, 3, sequence,")
    model = spelled(parse, body, text)
    RecognizeNorms(expected=1)(model)
    assert lines(model)[0].startswith("y = RMSNormalization(x, w) axis=-1")


DECLINED = {
    ROOT.replace("(sq, last)", "(sq, first)") + "n = Div(x, root)  y = Mul(n, w)": "over axes [1]",
    ROOT.replace("keepdims = 1", "keepdims = 0") + "n = Div(x, root)  y = Mul(n, w)": "drops the axis",
    ROOT.replace("Add(mean, eps)", "Add(mean, x)")
    + "n = Div(x, root)  y = Mul(n, w)": "no constant is added",
    ROOT + "z = Neg(x)  n = Div(z, root)  y = Mul(n, w)": "not what x is divided by",
    ROOT + "n = Mul(x, root)  y = Mul(n, w)": "not what x is divided by",
}


@pytest.mark.parametrize(("body", "reason"), DECLINED.items(), ids=DECLINED.values())
def test_near_misses_are_explained_and_left_alone(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]], body: str, reason: str
) -> None:
    model = spelled(parse, body)
    before = lines(model)
    result = RecognizeNorms(expected=1)(model)
    assert lines(model) == before
    assert result.declined[0].reason == "expected 1 norms, found 0"
    assert reason in result.declined[1].reason


def test_a_mean_of_squares_alone_is_no_near_miss(parse: Callable[..., ir.Model]) -> None:
    result = RecognizeNorms()(spelled(parse, MEAN + "y = Mul(sum, x)"))
    assert (result.applied, result.declined) == ((), ())
