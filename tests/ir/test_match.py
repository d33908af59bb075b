"""Stored weights are recognised in all canonical forms, and their values are those of the graph."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from intaglio.compiler.ir import (
    DOMAIN,
    GraphBuilder,
    constant_of,
    dequantize,
    is_dequantized_weight,
    producer_of,
    sole_consumer,
)

FLOAT = ir.DataType.FLOAT
RANDOM = np.random.default_rng(5)


def stored_float(builder: GraphBuilder, dtype: type, cast: bool) -> tuple[ir.Value, np.ndarray]:
    array = RANDOM.standard_normal((3, 64)).astype(dtype)
    value = builder.initializer("weight", array)
    return builder.node("Cast", [value], {"to": 1}) if cast else value, array.astype(np.float32)


def symmetric(
    builder: GraphBuilder, dtype: type, zero: bool, scale_dtype: type = np.float16
) -> tuple[ir.Value, np.ndarray]:
    low = 0 if dtype in (np.uint8, ml_dtypes.uint4) else -8
    codes = RANDOM.integers(low, low + 16, (3, 64))
    scale = RANDOM.standard_normal((3, 2)).astype(scale_dtype)
    zeros = np.array([[8, 7], [6, 5], [4, 3]])
    inputs = [builder.initializer("codes", codes.astype(dtype)), builder.initializer("scale", scale)]
    if scale_dtype is np.float16:
        inputs[1] = builder.node("Cast", [inputs[1]], {"to": 1})
    if zero:
        inputs.append(builder.initializer("zero", zeros.astype(dtype)))
    value = builder.node("DequantizeLinear", inputs, {"axis": 1, "block_size": 32})
    shifted = codes - np.repeat(zeros, 32, axis=1) if zero else codes
    return value, shifted.astype(np.float32) * np.repeat(scale.astype(np.float32), 32, axis=1)


def affine(builder: GraphBuilder) -> tuple[ir.Value, np.ndarray]:
    codes = RANDOM.integers(0, 32, (3, 64)).astype(np.uint8)
    scale, minimum = RANDOM.standard_normal((2, 3, 2)).astype(np.float16)
    arrays = {"codes": codes, "scale": scale, "minimum": minimum}
    inputs = [builder.initializer(name, array) for name, array in arrays.items()]
    value = builder.node("DequantizeAffine", inputs, {"block_size": 32}, domain=DOMAIN)
    spread = [np.repeat(one.astype(np.float32), 32, axis=1) for one in (scale, minimum)]
    return value, codes.astype(np.float32) * spread[0] + spread[1]


FORMS = {
    "float32": (lambda builder: stored_float(builder, np.float32, False), "float"),
    "float16": (lambda builder: stored_float(builder, np.float16, True), "float"),
    "bfloat16": (lambda builder: stored_float(builder, ml_dtypes.bfloat16, True), "float"),
    "int8": (lambda builder: symmetric(builder, np.int8, False), "symmetric"),
    "int4": (lambda builder: symmetric(builder, ml_dtypes.int4, False), "symmetric"),
    "uint4-zero": (lambda builder: symmetric(builder, ml_dtypes.uint4, True), "symmetric"),
    "uint8-zero": (lambda builder: symmetric(builder, np.uint8, True), "symmetric"),
    "float32-scale": (lambda builder: symmetric(builder, np.int8, False, np.float32), "symmetric"),
    "affine": (affine, "affine"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("transposed", [False, True])
def test_every_form_is_recognised(form: str, transposed: bool) -> None:
    build, kind = FORMS[form]
    builder = GraphBuilder()
    value, expected = build(builder)
    if transposed:
        value = builder.node("Transpose", [value], {"perm": [1, 0]})
    weight = is_dequantized_weight(value)
    assert weight is not None
    assert (weight.kind, weight.shape, weight.transposed) == (kind, (3, 64), transposed)
    assert weight.block_size == (0 if kind == "float" else 32)
    assert weight.codes.is_initializer()
    assert (weight.minimum is not None) == (kind == "affine")
    assert (weight.zero_point is not None) == form.endswith("zero")
    result = dequantize(weight)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, expected)


def test_what_is_no_stored_weight() -> None:
    builder = GraphBuilder()
    x = builder.input("x", FLOAT, [3, 64])
    assert is_dequantized_weight(None) is None
    assert is_dequantized_weight(x) is None
    assert is_dequantized_weight(builder.node("Abs", [x])) is None
    assert is_dequantized_weight(builder.initializer("vector", np.ones(3, np.float32))) is None
    assert is_dequantized_weight(builder.integers([1])) is None
    table = builder.initializer("table", np.ones((3, 4), np.float32))
    assert is_dequantized_weight(builder.node("Cast", [table], {"to": int(ir.DataType.FLOAT16)})) is None
    twice = builder.node("Transpose", [builder.node("Transpose", [table])])
    assert is_dequantized_weight(twice) is None
    kept = builder.node("Transpose", [table], {"perm": [0, 1]})
    assert is_dequantized_weight(kept) is None


def test_scales_per_row_are_not_blocks() -> None:
    builder = GraphBuilder()
    codes = builder.initializer("codes", np.ones((3, 64), np.int8))
    scale = builder.initializer("scale", np.ones(3, np.float32))
    assert is_dequantized_weight(builder.node("DequantizeLinear", [codes, scale], {"axis": 0})) is None


def test_a_computed_zero_point_is_not_stored() -> None:
    builder = GraphBuilder()
    codes = builder.initializer("codes", np.ones((3, 64), np.uint8))
    scale = builder.initializer("scale", np.ones((3, 2), np.float32))
    zero = builder.node("Abs", [builder.input("zero", ir.DataType.UINT8, [3, 2])])
    node = builder.node("DequantizeLinear", [codes, scale, zero], {"axis": 1, "block_size": 32})
    assert is_dequantized_weight(node) is None


def test_function_bodies_have_weights_as_inputs() -> None:
    builder = GraphBuilder(constants="node")
    codes = builder.input("codes", ir.DataType.INT8, [3, 64])
    scale = builder.input("scale", FLOAT, [3, 2])
    value = builder.node("DequantizeLinear", [codes, scale], {"axis": 1, "block_size": 32})
    assert is_dequantized_weight(value) is None
    weight = is_dequantized_weight(value, inputs=True)
    assert weight is not None
    given = {codes: RANDOM.integers(-9, 9, (3, 64)).astype(np.int8), scale: np.full((3, 2), 0.5, np.float32)}
    np.testing.assert_array_equal(dequantize(weight, given), given[codes] * np.float32(0.5))


@pytest.mark.parametrize("op", ["DequantizeLinear", "DequantizeAffine"])
def test_blocks_of_a_size_that_the_caller_decides_are_not_known(op: str) -> None:
    builder = GraphBuilder(constants="node")
    codes = builder.input("codes", ir.DataType.UINT8, [3, 64])
    blocks = [builder.input(name, FLOAT, [3, 2]) for name in ("scale", "minimum")]
    inputs = [codes, *blocks] if op == "DequantizeAffine" else [codes, blocks[0]]
    attributes = {"block_size": ir.RefAttr("block_size", "size", ir.AttributeType.INT)}
    domain = DOMAIN if op == "DequantizeAffine" else ""
    value = builder.node(op, inputs, attributes, domain=domain)
    assert is_dequantized_weight(value, inputs=True) is None


def test_producer_and_consumer() -> None:
    builder = GraphBuilder()
    x = builder.input("x", FLOAT, [3])
    first = builder.node("Abs", [x])
    second = builder.node("Neg", [first])
    builder.output(second)
    assert producer_of(first, "Abs") is first.producer()
    assert producer_of(first, "Neg") is None
    assert producer_of(x, "Abs") is None
    assert sole_consumer(first) is second.producer()
    assert sole_consumer(second) is None
    builder.node("Add", [first, first])
    assert sole_consumer(first) is None


def test_a_graph_output_has_no_sole_consumer() -> None:
    builder = GraphBuilder()
    first = builder.node("Abs", [builder.input("x", FLOAT, [3])])
    builder.node("Neg", [first])
    builder.output(first)
    assert sole_consumer(first) is None


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"value_int": 3}, np.array(3)),
        ({"value_ints": [3, 4]}, np.array([3, 4])),
        ({"value_float": 0.5}, np.array(0.5, np.float32)),
        ({"value": ir.tensor(np.array([[1.5]], np.float32))}, np.array([[1.5]], np.float32)),
    ],
    ids=["int", "ints", "float", "tensor"],
)
def test_constants_are_read(attributes: dict[str, object], expected: np.ndarray) -> None:
    builder = GraphBuilder()
    found = constant_of(builder.node("Constant", [], attributes))  # type: ignore[arg-type]
    assert found is not None
    assert found.numpy().dtype == expected.dtype
    np.testing.assert_array_equal(found.numpy(), expected)
    assert constant_of(builder.input("x", FLOAT, [])) is None
    stored = constant_of(builder.integers([7]))
    assert stored is not None
    assert stored.numpy().tolist() == [7]
