"""Constants that are folded, and weights that are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from intaglio.compiler.ir.match import constant_of
from intaglio.passes.normalize.fold_constants import FoldConstants


def folded(model: ir.Model, name: str = "y") -> np.ndarray:
    value = next(one for node in model.graph for one in node.outputs if one.name == name)
    tensor = constant_of(value)
    assert tensor is not None, f"{name} is not constant"
    return tensor.numpy()


def test_index_arithmetic_is_folded_through(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]]
) -> None:
    model = parse(
        "g (float[n] x) => (int64[2] y) <int64[1] a = {3}, int64[1] b = {4}> "
        "{ c = Add(a, b)  d = Mul(c, b)  y = Concat<axis = 0>(c, d) }"
    )
    result = FoldConstants()(model)
    assert lines(model) == []
    np.testing.assert_array_equal(folded(model), [7, 28])
    assert [one.site for one in result.applied] == ["c", "d", "y"]


def test_a_causal_mask_is_folded(parse: Callable[..., ir.Model]) -> None:
    model = parse(
        "g (float[n] x) => (bool[4, 4] y) <int64[2] shape = {4, 4}> "
        "{ ones = ConstantOfShape<value = int64[1] {1}>(shape)  low = Trilu<upper = 0>(ones) "
        "y = Cast<to = 9>(low) }"
    )
    FoldConstants()(model)
    np.testing.assert_array_equal(folded(model), np.tri(4, dtype=bool))


def test_the_shape_of_a_known_value_is_folded(parse: Callable[..., ir.Model]) -> None:
    model = parse("g (float[2, 3, 5] x) => (int64[2] y) { y = Shape<start = 1>(x) }")
    FoldConstants()(model)
    np.testing.assert_array_equal(folded(model), [3, 5])


UNTOUCHED = {
    "symbolic shape": ("g (float[n, 3] x) => (int64[2] y) { y = Shape(x) }", {}),
    "transposed weight": (
        "g (float[n] x) => (float[2, 2] y) { y = Transpose(w) }",
        {"w": np.ones((2, 2), np.float32)},
    ),
    "widened scale": (
        "g (float[n] x) => (float[2, 1] y) { y = Cast<to = 1>(w) }",
        {"w": np.ones((2, 1), np.float16)},
    ),
    "codes": ("g (float[n] x) => (float[2, 2] y) { y = Cast<to = 1>(w) }", {"w": np.ones((2, 2), np.int8)}),
    "too large": (
        "g (float[n] x) => (int64[n, m] y) <int64[2] size = {300, 300}> "
        "{ y = ConstantOfShape<value = int64[1] {1}>(size) }",
        {},
    ),
    "random": ("g (float[n] x) => (float[2] y) { y = RandomNormal<shape = [2]>() }", {}),
}


@pytest.mark.parametrize(("text", "weights"), UNTOUCHED.values(), ids=UNTOUCHED.keys())
def test_exceptions(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]], text: str, weights: dict[str, Any]
) -> None:
    model = parse(text, **weights)
    before = lines(model)
    assert not FoldConstants()(model).modified
    assert lines(model) == before


def test_lazy_weights_are_never_read(
    parse: Callable[..., ir.Model], tiny_decoder: Callable[..., Any]
) -> None:
    def fail() -> ir.TensorProtocol:
        raise AssertionError("a pass read a weight that it had no business with")

    model = tiny_decoder().traced()
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.size > 64:
            value.const_value = ir.LazyTensor(fail, value.const_value.dtype, value.const_value.shape)
    FoldConstants()(model)
