"""Linear layers in every spelling: stored [out, in] lazily, named, shared once; what is none stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from intaglio.compiler.ir.invariants import check
from intaglio.passes.linears import find_linears
from intaglio.passes.normalize.recognize_linears import RecognizeLinears

RANDOM = np.random.default_rng(5)
IN_OUT = RANDOM.standard_normal((4, 3)).astype(np.float32)
OUT_IN = np.ascontiguousarray(IN_OUT.T)
BIAS = RANDOM.standard_normal(3).astype(np.float32)

SPELLINGS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "stored [in, out]": (
        "y = MatMul(x, fc.weight)",
        {"fc.weight": IN_OUT},
        ["val_0 = Transpose(fc.weight) perm=[1, 0]", "y = MatMul(x, val_0)"],
    ),
    "turned twice": (
        "a = Transpose<perm = [1, 0]>(fc.weight)  b = Transpose<perm = [1, 0]>(a)  y = MatMul(x, b)",
        {"fc.weight": IN_OUT},
        ["val_0 = Transpose(fc.weight) perm=[1, 0]", "y = MatMul(x, val_0)"],
    ),
    "half, cast after turning": (
        "a = Transpose<perm = [1, 0]>(fc.weight)  b = Cast<to = 1>(a)  y = MatMul(x, b)",
        {"fc.weight": OUT_IN.astype(np.float16)},
        ["val_0 = Cast(fc.weight) to=1", "val_1 = Transpose(val_0) perm=[1, 0]", "y = MatMul(x, val_1)"],
    ),
    "half, stored [in, out]": (
        "b = Cast<to = 1>(fc.weight)  y = MatMul(x, b)",
        {"fc.weight": IN_OUT.astype(np.float16)},
        ["val_0 = Cast(fc.weight) to=1", "val_1 = Transpose(val_0) perm=[1, 0]", "y = MatMul(x, val_1)"],
    ),
    "Gemm": (
        "y = Gemm(x2, fc.weight, fc.bias)",
        {"fc.weight": IN_OUT, "fc.bias": BIAS},
        ["val_0 = Transpose(fc.weight) perm=[1, 0]", "val_1 = MatMul(x2, val_0)", "y = Add(val_1, fc.bias)"],
    ),
    "Gemm that turns": (
        "y = Gemm<transB = 1>(x2, fc.weight)",
        {"fc.weight": OUT_IN},
        ["val_0 = Transpose(fc.weight) perm=[1, 0]", "y = MatMul(x2, val_0)"],
    ),
    "Gemm of a turned weight": (
        "a = Transpose(fc.weight)  y = Gemm<beta = 3.0>(x2, a)",
        {"fc.weight": OUT_IN},
        ["val_0 = Transpose(fc.weight) perm=[1, 0]", "y = MatMul(x2, val_0)"],
    ),
}


def graph(body: str, result: str = "float[b, s, 3] y") -> str:
    return f"g (float[b, s, 4] x, float[b, 4] x2) => ({result}) {{ {body} }}"


def feeds() -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(1)
    return {
        "x": random.standard_normal((2, 5, 4)).astype(np.float32),
        "x2": random.standard_normal((2, 4)).astype(np.float32),
    }


@pytest.mark.parametrize(("body", "weights", "after"), SPELLINGS.values(), ids=SPELLINGS.keys())
def test_every_spelling_becomes_one_form(
    parse: Callable[..., ir.Model],
    lines: Callable[[ir.Model], list[str]],
    run: Callable[..., dict[str, np.ndarray]],
    body: str,
    weights: dict[str, Any],
    after: list[str],
) -> None:
    text = graph(body.replace("fc.", "fc_"), "float[b, 3] y" if "x2" in body else "float[b, s, 3] y")
    model = parse(text, **{name.replace(".", "_"): one for name, one in weights.items()})
    for name in weights:
        value = model.graph.initializers.pop(name.replace(".", "_"))
        value.name = name
        model.graph.register_initializer(value)
    expected = run(model, **feeds())["y"]
    result = RecognizeLinears()(model)
    check(model)
    assert lines(model) == after
    (layer,) = find_linears(model)
    assert (layer.site, layer.weight.shape) == ("y", (3, 4))
    assert [one.site for one in result.applied] == ["y"]
    np.testing.assert_allclose(run(model, **feeds())["y"], expected, rtol=1e-6, atol=1e-6)


def test_a_canonical_layer_stays(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]]
) -> None:
    model = parse(graph("t = Transpose<perm = [1, 0]>(w)  y = MatMul(x, t)"), w=OUT_IN)
    before = lines(model)
    assert not RecognizeLinears()(model).modified
    assert lines(model) == before


def test_turning_is_lazy_and_a_shared_weight_stays_one(
    parse: Callable[..., ir.Model], run: Callable[..., dict[str, np.ndarray]]
) -> None:
    reads = []

    def load() -> ir.TensorProtocol:
        reads.append(1)
        return ir.tensor(IN_OUT)

    weight = ir.LazyTensor(load, ir.DataType.FLOAT, ir.Shape([4, 3]))
    body = "a = MatMul(x, w)  b = Neg(x)  c = MatMul(b, w)  y = Add(a, c)"
    model = parse(graph(body), w=weight)
    RecognizeLinears()(model)
    assert reads == []
    assert list(model.graph.initializers) == ["w"]
    assert model.graph.initializers["w"].shape == (3, 4)
    assert [one.site for one in find_linears(model)] == ["a", "c"]
    np.testing.assert_allclose(run(model, **feeds())["y"], 0, atol=1e-6)


def test_a_weight_that_others_read_stays_beside_the_turned_one(
    parse: Callable[..., ir.Model], run: Callable[..., dict[str, np.ndarray]]
) -> None:
    body = "a = MatMul(x, w)  r = Gather<axis = 0>(w, i)  y = Add(a, r)"
    model = parse(graph(body), w=IN_OUT, i=np.array(1))
    expected = run(model, **feeds())["y"]
    RecognizeLinears()(model)
    assert sorted(model.graph.initializers) == ["i", "w", "w.turned"]
    np.testing.assert_allclose(run(model, **feeds())["y"], expected, rtol=1e-6, atol=1e-6)


NAMES = {
    ("MatMul_3", "encoder.layer.0.dense.weight", ""): "encoder.layer.0.dense",
    ("/encoder/layer.0/dense/MatMul", "onnx::MatMul_12", ""): "encoder.layer.0.dense",
    ("/head/Gemm_1", "lm.weight", ""): "head",
    ("node_linear_7", "val_9", "['', 'model', 'model.fc', 'linear']"): "model.fc",
    ("lm_head", "embed_tokens.weight", ""): "lm_head",
    ("node_MatMul_5", "val_3", ""): "node_MatMul_5",
    ("node_linear_7", "val_9", "no list"): "node_linear_7",
}


@pytest.mark.parametrize(("names", "site"), NAMES.items(), ids=str)
def test_layers_are_named_after_what_names_them(
    parse: Callable[..., ir.Model], names: tuple[str, str, str], site: str
) -> None:
    model = parse(graph("y = MatMul(x, w)"), w=IN_OUT)
    node, weight = model.graph[-1], model.graph.initializers.pop("w")
    node.name, weight.name = names[:2]
    model.graph.register_initializer(weight)
    if names[2]:
        node.metadata_props["pkg.torch.onnx.name_scopes"] = names[2]
    RecognizeLinears()(model)
    assert [one.site for one in find_linears(model)] == [site]


def test_names_are_unique(parse: Callable[..., ir.Model]) -> None:
    model = parse(graph("a = MatMul(x, w)  c = MatMul(x, w)  y = Add(a, c)"), w=IN_OUT)
    for index, node in enumerate(model.graph):
        node.name = f"MatMul_{index}"
    RecognizeLinears()(model)
    assert [one.site for one in find_linears(model)] == ["w", "w.2"]


SPARED = {
    "y = MatMul(x, w)": {"w": IN_OUT[:, :1]},  # one row
    "c = Cast<to = 6>(x)  i = MatMul(c, w)  y = Cast<to = 1>(i)": {"w": np.ones((4, 3), np.int32)},
    "y = MatMul(x, w)  ": {"w": np.ones((1, 4, 3), np.float32)},
}


@pytest.mark.parametrize(("body", "weights"), SPARED.items(), ids=str)
def test_what_is_no_linear_layer_stays(
    parse: Callable[..., ir.Model],
    lines: Callable[[ir.Model], list[str]],
    body: str,
    weights: dict[str, Any],
) -> None:
    model = parse(graph(body), **weights)
    before = lines(model)
    result = RecognizeLinears()(model)
    assert (result.applied, result.declined, lines(model)) == ((), (), before)


@pytest.mark.parametrize(
    ("body", "reason"),
    {
        "y = Gemm<transA = 1>(x2, w)": "transA=1",
        "y = Gemm<alpha = 0.5>(x2, w)": "alpha=0.5",
        "y = Gemm<beta = 2.0>(x2, w, c)": "beta=2.0",
    }.items(),
)
def test_near_misses_are_explained_and_left_alone(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]], body: str, reason: str
) -> None:
    weights = {"w": IN_OUT, "c": BIAS} if "c)" in body else {"w": IN_OUT}
    model = parse(graph(body, "float[b, 3] y"), **weights)
    before = lines(model)
    result = RecognizeLinears()(model)
    assert lines(model) == before
    assert reason in result.declined[0].reason
