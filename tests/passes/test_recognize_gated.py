"""SwiGLU: both operand orders, and what is not one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from intaglio.passes.normalize.recognize_gated import RecognizeGated

SPELLINGS = {
    "gate first": "a = Sigmoid(g)  s = Mul(g, a)  y = Mul(s, u)",
    "sigmoid first": "a = Sigmoid(g)  s = Mul(a, g)  y = Mul(s, u)",
    "up first": "a = Sigmoid(g)  s = Mul(g, a)  y = Mul(u, s)",
    "sigmoid and up first": "a = Sigmoid(g)  s = Mul(a, g)  y = Mul(u, s)",
    "swish": "s = Swish(g)  y = Mul(s, u)",
}
DECLINED = {
    "a = Sigmoid(u)  s = Mul(g, a)  y = Mul(s, u)": "sigmoid of u times g",
    "a = Sigmoid(g)  s = Mul(g, a)  y = Add(s, u)": "no product with a second value follows",
    "a = Sigmoid(g)  s = Mul(g, a)  y = Mul(s, s)": "no product with a second value follows",
    "s = Swish<alpha = 2.0>(g)  y = Mul(s, u)": "alpha 2.0",
}


def graph(body: str) -> str:
    return f"g (float[b, s, 6] g, float[b, s, 6] u) => (float[b, s, 6] y) {{ {body} }}"


@pytest.mark.parametrize("body", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_every_spelling_becomes_one_node(
    parse: Callable[..., ir.Model],
    lines: Callable[[ir.Model], list[str]],
    run: Callable[..., dict[str, np.ndarray]],
    body: str,
) -> None:
    g, u = np.random.default_rng(0).standard_normal((2, 1, 3, 6)).astype(np.float32)
    model = parse(graph(body))
    expected = g / (1 + np.exp(-g)) * u
    result = RecognizeGated(expected=1)(model)
    assert lines(model) == ["y = intaglio.SwiGLU(g, u)"]
    assert [one.site for one in result.applied] == ["y"]
    assert not result.declined
    np.testing.assert_allclose(run(model, g=g, u=u)["y"], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("body", "reason"), DECLINED.items())
def test_near_misses_are_explained_and_left_alone(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]], body: str, reason: str
) -> None:
    model = parse(graph(body))
    before = lines(model)
    result = RecognizeGated(expected=1)(model)
    assert lines(model) == before
    assert not result.modified
    assert result.declined[0].reason == "expected 1 gated activations, found 0"
    assert reason in result.declined[1].reason


def test_a_shared_gate_keeps_its_spelling_for_the_others(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]]
) -> None:
    model = parse(
        "g (float[2] g, float[2] u) => (float[2] y, float[2] z) "
        "{ a = Sigmoid(g)  s = Mul(g, a)  y = Mul(s, u)  z = Neg(s) }"
    )
    RecognizeGated()(model)
    assert lines(model) == [
        "a = Sigmoid(g)",
        "s = Mul(g, a)",
        "y = intaglio.SwiGLU(g, u)",
        "z = Neg(s)",
    ]


def test_nothing_is_said_where_nothing_is_near_or_expected(parse: Callable[..., ir.Model]) -> None:
    result = RecognizeGated()(parse("g (float[2] g, float[2] u) => (float[2] y) { y = Mul(g, u) }"))
    assert result.applied == ()
    assert result.declined == ()
