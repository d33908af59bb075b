"""What changes nothing goes; small weights are computed when read; slices and sequences become splits."""

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
from intaglio.passes.normalize.split_sequences import SplitSequences
from intaglio.passes.normalize.split_slices import SplitSlices

WEIGHTS: dict[str, Any] = {
    "whole": np.array([0, 0, 6]),
    "rows": np.array([-1, 6]),
    "copied": np.array([0, 3, 2]),
    "like3": np.array([-1, 3, 6]),
    "flat": np.array([-1]),
    "six": np.array([-1, 3, 2]),
    "zero": np.array([0]),
    "one": np.array([1]),
    "two": np.array([2]),
    "four": np.array([4]),
    "seven": np.array([7]),
    "end": np.array([2**63 - 1]),
    "last": np.array([2]),
    "minus": np.array([-1]),
    "like": np.array(1.0, np.float32),
    "v": np.arange(6, dtype=np.float32),
    "h": np.arange(6, dtype=np.float16),
    "m": np.ones((2, 6), np.float16),
    "c": np.array(3.0, np.float32),
    "i0": np.array(0),
    "im": np.array(-1),
    "size2": np.array(4),
    "parts": np.array([1, 5]),
}


def built(parse: Callable[..., ir.Model], body: str, output: str = "float[b, s, 6] y") -> ir.Model:
    used = {
        name: one for name, one in WEIGHTS.items() if any(f"{a}{name}{z}" in body for a in "( " for z in ",)")
    }
    model = parse(f"g (float[b, s, 6] x) => ({output}) {{ {body} }}", **used)
    InferShapes()(model)
    return model


X = np.random.default_rng(0).standard_normal((2, 3, 6)).astype(np.float32)

COPIES = {
    "identity": ("a = Identity(x)  y = Neg(a)", ["y = Neg(x)"]),
    "cast": ("a = Cast<to = 1>(x)  y = Neg(a)", ["y = Neg(x)"]),
    "cast to the type of another": ("a = CastLike(x, like)  y = Neg(a)", ["y = Neg(x)"]),
    "dropout": ("a = Dropout(x)  y = Neg(a)", ["y = Neg(x)"]),
    "reshape": ("a = Reshape(x, whole)  y = Neg(a)", ["y = Neg(x)"]),
    "slice of everything": ("a = Slice(x, zero, end, last)  y = Neg(a)", ["y = Neg(x)"]),
    "transpose": ("a = Transpose<perm = [0, 1, 2]>(x)  y = Neg(a)", ["y = Neg(x)"]),
    "transposes that undo each other": (
        "a = Transpose<perm = [1, 2, 0]>(x)  b = Transpose<perm = [2, 0, 1]>(a)  y = Neg(b)",
        ["y = Neg(x)"],
    ),
    "transposes that add up": (
        "a = Transpose<perm = [1, 2, 0]>(x)  b = Transpose<perm = [1, 0, 2]>(a)  "
        "c = Transpose<perm = [2, 1, 0]>(b)  y = Neg(c)",
        ["y = Neg(x)"],
    ),
    "reshapes": (
        "a = Reshape(x, rows)  b = Reshape(a, six)  d = Neg(b)  e = Reshape(d, flat)  y = Reshape(e, like3)",
        ["b = Reshape(x, six)", "d = Neg(b)", "y = Reshape(d, like3)"],
    ),
    "a copy as output": ("a = Neg(x)  y = Identity(a)", ["y = Neg(x)"]),
    "nothing to join": (
        "a = Slice(x, seven, end, last)  n = Neg(x)  y = Concat<axis = -1>(n, a)",
        ["y = Neg(x)"],
    ),
    "constants last": ("y = Mul(c, x)", ["y = Mul(x, c)"]),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_go(
    parse: Callable[..., ir.Model],
    lines: Callable[[ir.Model], list[str]],
    run: Callable[..., dict[str, np.ndarray]],
    name: str,
) -> None:
    body, after = COPIES[name]
    model = built(parse, body)
    expected = None if "CastLike" in body or "Dropout" in body else run(model, x=X)["y"]
    CleanUp()(model)
    check(model)
    assert lines(model) == after
    if expected is not None:
        np.testing.assert_array_equal(run(model, x=X)["y"], expected)


KEPT = {
    "y = Identity(x)": "float[b, s, 6] y",
    "a = Transpose<perm = [1, 0, 2]>(x)  y = Neg(a)": "float[s, b, 6] y",
    "a = Slice(x, one, end, last)  y = Neg(a)": "float[b, s, 5] y",
    "a = Cast<to = 11>(x)  y = Neg(a)": "double[b, s, 6] y",
    "a = Reshape(x, rows)  b = Reshape(a, copied)  y = Neg(b)": "float[r, 3, 2] y",
}


@pytest.mark.parametrize(("body", "output"), KEPT.items())
def test_what_changes_something_stays(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]], body: str, output: str
) -> None:
    model = built(parse, body, output)
    before = lines(model)
    assert not CleanUp()(model).modified
    assert lines(model) == before


def test_two_outputs_of_one_value_stay_two(
    parse: Callable[..., ir.Model], run: Callable[..., dict[str, np.ndarray]]
) -> None:
    model = built(parse, "n = Neg(x)  y = Identity(n)  z = Identity(n)", "float[b, s, 6] y, float[b, s, 6] z")
    CleanUp()(model)
    check(model)
    assert [one.name for one in model.graph.outputs] == ["y", "z"]
    for one in run(model, x=X).values():
        np.testing.assert_array_equal(one, -X)


def test_removed_nodes_do_not_count_as_readers(parse: Callable[..., ir.Model]) -> None:
    model = built(parse, "n = Neg(x)  a = Abs(n)  y = Exp(n)")
    model.graph.remove(next(node for node in model.graph if node.op_type == "Abs"))
    CleanUp()(model)
    assert len(model.graph[0].outputs[0].uses()) == 1


VECTORS = {
    "one more": ("w = Add(c, v)  y = Mul(x, w)", np.arange(6) + 3.0, "v"),
    "cast": ("w = Cast<to = 1>(h)  y = Mul(x, w)", np.arange(6.0), "h"),
    "both": ("f = Cast<to = 1>(h)  w = Sub(c, f)  y = Mul(x, w)", 3.0 - np.arange(6), "h"),
    "read elsewhere": ("w = Div(v, c)  a = Mul(x, w)  y = Add(a, v)", np.arange(6) / 3, "v.div"),
}


@pytest.mark.parametrize(("body", "values", "name"), VECTORS.values(), ids=VECTORS.keys())
def test_small_weights_are_computed_when_read(
    parse: Callable[..., ir.Model],
    run: Callable[..., dict[str, np.ndarray]],
    body: str,
    values: np.ndarray[Any, Any],
    name: str,
) -> None:
    model = built(parse, body)
    expected = run(model, x=X)["y"]
    FoldVectors()(model)
    check(model)
    folded = model.graph.initializers[name].const_value
    assert isinstance(folded, ir.LazyTensor)
    np.testing.assert_allclose(folded.numpy(), values, rtol=1e-6)
    np.testing.assert_allclose(run(model, x=X)["y"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    "body", ["f = Cast<to = 1>(m)  y = Add(x, f)", "w = Add(v, v)  y = Mul(x, w)", "y = Add(x, v)"]
)
def test_other_weights_stay_computed(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]], body: str
) -> None:
    model = built(parse, body)
    before = lines(model)
    assert not FoldVectors()(model).modified
    assert lines(model) == before


def test_a_folded_output_stays(parse: Callable[..., ir.Model]) -> None:
    model = built(parse, "n = Neg(x)  y = Add(v, c)", "float[6] y")
    assert not FoldVectors()(model).modified


def test_slices_become_a_split(
    parse: Callable[..., ir.Model],
    lines: Callable[[ir.Model], list[str]],
    run: Callable[..., dict[str, np.ndarray]],
) -> None:
    body = (
        "a = Slice(x, zero, one, last)  b = Slice(x, one, four, minus)  c = Slice(x, four, end, last)  "
        "d = Slice(b, zero, two, last)  e = Slice(b, two, end, last)  f = Slice(x, four, end, last)  "
        "y = Concat<axis = -1>(c, e, d, a, f)"
    )
    model = built(parse, body, "float[b, s, 8] y")
    expected = run(model, x=X)["y"]
    assert [one.detail for one in SplitSlices()(model).applied] == ["4 slices of x", "2 slices of b"]
    check(model)
    assert lines(model) == [
        "a, b, c = Split(x, constant.int64.3[1,3,2]) axis=-1",
        "d, e = Split(b, constant.int64.2[2,1]) axis=-1",
        "f = Identity(c)",
        "y = Concat(c, e, d, a, f) axis=-1",
    ]
    np.testing.assert_array_equal(run(model, x=X)["y"], expected)


@pytest.mark.parametrize(
    "body",
    [
        "a = Slice(x, zero, two, last)  b = Slice(x, four, end, last)  y = Concat<axis = -1>(a, b)",
        "a = Slice(x, zero, four, last)  b = Slice(x, two, end, last)  y = Concat<axis = -1>(b, a)",
        "a = Slice(x, zero, one, one)  b = Slice(x, one, end, one)  y = Concat<axis = 1>(a, b)",
    ],
    ids=["a gap", "an overlap", "another axis"],
)
def test_other_slices_stay(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]], body: str
) -> None:
    model = built(parse, body, "float[b, s, n] y")
    before = lines(model)
    assert not SplitSlices()(model).modified
    assert lines(model) == before


@pytest.mark.parametrize(
    ("sizes", "split"), {"parts": "constant.int64.2[1,5]", "size2": "constant.int64.2[4,2]"}.items()
)
def test_sequences_of_parts_become_a_split(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]], sizes: str, split: str
) -> None:
    body = f"q = SplitToSequence<axis = 2>(x, {sizes})  a = SequenceAt(q, im)  b = SequenceAt(q, i0)  "
    model = built(parse, body + "y = Concat<axis = -1>(a, b)")
    assert len(SplitSequences()(model).applied) == 1
    check(model)
    found = lines(model)
    assert found[-2:] == [f"b, a = Split(x, {split}) axis=2", "y = Concat(a, b) axis=-1"]


@pytest.mark.parametrize("reader", ["y = SequenceAt(q, n)", "l = SequenceLength(q)  y = Add(n, l)"])
def test_sequences_that_are_read_otherwise_stay(parse: Callable[..., ir.Model], reader: str) -> None:
    body = f"q = SplitToSequence<axis = 2>(x, size2)  n = Size(x)  {reader}"
    output = "int64 y" if "Length" in reader else "float[b, s, 6] y"
    assert not SplitSequences()(built(parse, body, output)).modified
