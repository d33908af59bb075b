"""GELU in every order of factors and terms, and GeGLU made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from intaglio.passes.normalize.recognize_gated import RecognizeGated
from intaglio.passes.normalize.recognize_gelu import RecognizeGelu

NUMBERS: dict[str, Any] = {
    "half": 0.5,
    "one": 1.0,
    "two": 2.0,
    "three": 3.0,
    "root2": 2**0.5,
    "inverse": 0.5**0.5,
    "c": 0.044715,
    "k": (2 / np.pi) ** 0.5,
    "kc": (2 / np.pi) ** 0.5 * 0.044715,
    "other": 0.1,
}
ERF = "d = Div(x, root2)  e = Erf(d)  p = Add(e, one)  "
CUBE = "q = Mul(x, x)  x3 = Mul(q, x)  "
TANH = "cx = Mul(c, x3)  i = Add(x, cx)  a = Mul(k, i)  e = Tanh(a)  p = Add(one, e)  "

SPELLINGS = {
    "x by (1 + erf), halved": (ERF + "m = Mul(x, p)  y = Mul(m, half)", "none"),
    "half of x first": (ERF + "h = Mul(half, x)  y = Mul(h, p)", "none"),
    "half of the sum": (
        ERF.replace("Div(x, root2)", "Mul(inverse, x)") + "h = Mul(p, half)  y = Mul(h, x)",
        "none",
    ),
    "divided by two": (ERF + "m = Mul(p, x)  y = Div(m, two)", "none"),
    "distributed": (ERF.split("  p =")[0] + "  xe = Mul(x, e)  s = Add(x, xe)  y = Mul(s, half)", "none"),
    "tanh, cube as a power": ("x3 = Pow(x, three)  " + TANH + "h = Mul(x, half)  y = Mul(h, p)", "tanh"),
    "tanh, cube as products": (CUBE + TANH + "m = Mul(x, p)  y = Mul(half, m)", "tanh"),
    "tanh, x drawn out": (
        "q = Mul(x, x)  cq = Mul(q, kc)  s = Add(cq, k)  a = Mul(x, s)  e = Tanh(a)  p = Add(e, one)  "
        "h = Mul(x, half)  y = Mul(h, p)",
        "tanh",
    ),
}


def spelled(parse: Callable[..., ir.Model], body: str, inputs: str = "float[b, 6] x") -> ir.Model:
    used = {
        name: np.array(one, np.float32)
        for name, one in NUMBERS.items()
        if any(f"{a}{name}{z}" in body for a in "( " for z in ",)")
    }
    return parse(f"g ({inputs}) => (float[b, 6] y) {{ {body} }}", **used)


@pytest.mark.parametrize(("body", "approximate"), SPELLINGS.values(), ids=SPELLINGS.keys())
def test_every_spelling_becomes_one_node(
    parse: Callable[..., ir.Model],
    lines: Callable[[ir.Model], list[str]],
    run: Callable[..., dict[str, np.ndarray]],
    body: str,
    approximate: str,
) -> None:
    x = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32) * 3
    model = spelled(parse, body)
    expected = run(model, x=x)["y"]
    result = RecognizeGelu()(model)
    assert lines(model) == [f"y = Gelu(x) approximate={approximate}"]
    assert [one.detail for one in result.applied] == [f"Gelu, approximate={approximate}"]
    np.testing.assert_allclose(run(model, x=x)["y"], expected, rtol=1e-5, atol=1e-6)


def test_x_may_be_computed_by_arithmetic_itself(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]]
) -> None:
    body = "z = Mul(u, u)  " + SPELLINGS["half of x first"][0].replace("(x,", "(z,").replace(" x)", " z)")
    model = spelled(parse, body, "float[b, 6] u")
    RecognizeGelu()(model)
    assert lines(model) == ["z = Mul(u, u)", "y = Gelu(z) approximate=none"]


def test_another_reader_of_the_inside_keeps_it(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]]
) -> None:
    model = spelled(parse, ERF + "h = Mul(half, x)  g = Mul(h, p)  y = Add(g, e)")
    RecognizeGelu()(model)
    assert [line.split(" = ")[1].split("(")[0] for line in lines(model)] == ["Div", "Erf", "Gelu", "Add"]


@pytest.mark.parametrize(
    ("body", "declined"),
    [
        (ERF + "m = Mul(x, p)  y = Mul(m, other)", ["erf of a GELU without x · ½ · (1 + erf) after it"]),
        (
            ERF + "n = Neg(x)  m = Mul(n, p)  y = Mul(m, half)",
            ["erf of a GELU without x · ½ · (1 + erf) after it"],
        ),
        ("y = Erf(x)", []),
        ("a = Mul(x, other)  y = Tanh(a)", []),
    ],
)
def test_what_is_no_gelu_stays(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]], body: str, declined: list[str]
) -> None:
    model = spelled(parse, body)
    before = lines(model)
    result = RecognizeGelu()(model)
    assert lines(model) == before
    assert [one.reason for one in result.declined] == declined


@pytest.mark.parametrize("order", ["y = Mul(a, u)", "y = Mul(u, a)"])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_a_gated_gelu(
    parse: Callable[..., ir.Model],
    lines: Callable[[ir.Model], list[str]],
    run: Callable[..., dict[str, np.ndarray]],
    order: str,
    approximate: str,
) -> None:
    inputs = "float[b, 6] x, float[b, 6] u"
    model = spelled(parse, f'a = Gelu<approximate = "{approximate}">(x)  {order}', inputs)
    x, u = np.random.default_rng(0).standard_normal((2, 3, 6)).astype(np.float32)
    expected = run(model, x=x, u=u)["y"]
    result = RecognizeGated(expected=1)(model)
    assert result.declined == ()
    assert lines(model) == [f"y = intaglio.GeGLU(x, u) approximate={approximate}"]
    np.testing.assert_allclose(run(model, x=x, u=u)["y"], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("body", ["a = Gelu(x)  y = Mul(a, half)", "a = Gelu(x)  y = Mul(a, u)"])
def test_a_scaled_gelu_is_not_gated(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]], body: str
) -> None:
    model = spelled(parse, body, "float[b, 6] x, float[b, 1] u")
    before = lines(model)
    result = RecognizeGated(expected=1)(model)
    assert lines(model) == before
    assert "no product with a second value follows" in result.declined[1].reason
    assert RecognizeGated()(model).declined == ()
