"""The canonical functions mean what they say: equal to numpy in onnxruntime, called or inlined."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx_ir.passes.common import InlinePass

from intaglio.compiler.ir import (
    DOMAIN,
    GraphBuilder,
    dequantize_affine,
    ensure_function,
    quantize_activation,
    swiglu,
)

Array = NDArray[np.generic]


def call(
    function: ir.Function, arrays: Mapping[str, Array], attributes: Mapping[str, int], shape: tuple[int, ...]
) -> ir.Model:
    builder = GraphBuilder()
    inputs = [
        builder.initializer(name, array)
        if array.dtype == ml_dtypes.uint4
        else builder.input(name, ir.DataType.from_numpy(array.dtype), array.shape)
        for name, array in arrays.items()
    ]
    result = builder.node(
        function.name, inputs, attributes, domain=DOMAIN, dtype=ir.DataType.FLOAT, shape=shape
    )
    builder.output(result, "result")
    return builder.model([function])


def run(model: ir.Model, arrays: Mapping[str, Array]) -> Array:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    fed = {one.name: arrays[one.name] for one in session.get_inputs()}
    result: Array = session.run(None, fed)[0]
    return result


@pytest.fixture(params=["called", "inlined"])
def prepared(request: pytest.FixtureRequest) -> bool:
    return request.param == "inlined"


def evaluate(model: ir.Model, arrays: Mapping[str, Array], inlined: bool) -> Array:
    if inlined:
        InlinePass()(model)
        assert not model.functions
    return run(model, arrays)


@pytest.mark.parametrize("codes_type", [np.uint8, ml_dtypes.uint4])
@pytest.mark.parametrize("blocks_type", [np.float16, np.float32])
def test_dequantize_affine_equals_numpy_bit_for_bit(
    prepared: bool, codes_type: type, blocks_type: type
) -> None:
    random = np.random.default_rng(1)
    codes = random.integers(0, 16, (7, 96)).astype(codes_type)
    scale = random.standard_normal((7, 3)).astype(blocks_type)
    minimum = random.standard_normal((7, 3)).astype(blocks_type)
    arrays = {"codes": codes, "scale": scale, "minimum": minimum}
    model = call(dequantize_affine(), arrays, {"block_size": 32}, (7, 96))
    spread = [np.repeat(one.astype(np.float32), 32, axis=1) for one in (scale, minimum)]
    expected = codes.astype(np.float32) * spread[0] + spread[1]
    np.testing.assert_array_equal(evaluate(model, arrays, prepared), expected)


@pytest.mark.parametrize(("shape", "group"), [((96,), 32), ((3, 5, 64), 16), ((2, 1, 3, 21), 7), ((5, 9), 9)])
def test_quantize_activation_equals_numpy_bit_for_bit(
    prepared: bool, shape: tuple[int, ...], group: int
) -> None:
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    x[..., :group] = 0
    x.reshape(-1)[-1] = 300.0
    model = call(quantize_activation(), {"x": x}, {"group": group}, shape)
    groups = x.reshape(*shape[:-1], -1, group)
    largest = np.abs(groups).max(axis=-1, keepdims=True)
    inverse = np.float32(127) / np.where(largest == 0, np.float32(1), largest)
    expected = np.rint(groups * inverse) * (largest * np.float32(1 / 127))
    result = evaluate(model, {"x": x}, prepared)
    np.testing.assert_array_equal(result, expected.reshape(shape))
    assert np.all(result[..., :group][x[..., :group] == 0] == 0)


def test_quantize_activation_rounds_half_to_even(prepared: bool) -> None:
    x = np.array([127.0, 0.5, 1.5, 2.5, -0.5, -1.5], np.float32)
    model = call(quantize_activation(), {"x": x}, {"group": 6}, (6,))
    codes = evaluate(model, {"x": x}, prepared) / (np.float32(127) * np.float32(1 / 127))
    np.testing.assert_array_equal(np.rint(codes), [127, 0, 2, 2, 0, -2])


def test_swiglu(prepared: bool) -> None:
    gate, up = np.random.default_rng(3).standard_normal((2, 3, 7)).astype(np.float32)
    model = call(swiglu(), {"gate": gate, "up": up}, {}, (3, 7))
    wide = gate.astype(np.float64)
    expected = wide / (1 + np.exp(-wide)) * up
    np.testing.assert_allclose(evaluate(model, {"gate": gate, "up": up}, prepared), expected, rtol=2e-6)


def test_ensure_function_adds_once_and_imports_the_domain() -> None:
    builder = GraphBuilder()
    builder.output(builder.input("x", ir.DataType.FLOAT, [3]))
    model = builder.model()
    first = swiglu()
    ensure_function(model, first)
    ensure_function(model, swiglu())
    assert list(model.functions.values()) == [first]
    assert model.opset_imports[DOMAIN] == 1
