"""The canonical model-local functions of domain `intaglio`: their bodies, in standard ops, are their meaning.

Any runtime can run them by inlining, and every kernel that implements one is compared with its body.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

DOMAIN = "intaglio"
DOMAIN_VERSION = 1
OPSET = 25


def ensure_function(model: ir.Model, function: ir.Function) -> None:
    """Add `function` to `model` unless a function of its identifier is there, and import its domain."""
    model.functions.setdefault(function.identifier(), function)
    model.opset_imports.setdefault(function.domain, DOMAIN_VERSION)


def dequantize_affine() -> ir.Function:
    """`DequantizeAffine(codes, scale, minimum; block_size) = codes · scale + minimum`.

    `codes` uint4 or uint8 `[N, K]`; `scale`, `minimum` float16 or float32 `[N, K / block_size]`;
    the result is float32 `[N, K]`, rounded after the product and after the sum as gguf does it.
    """
    tape = Tape()
    codes, scale, minimum = inputs = _values("codes", "scale", "minimum")
    wide_scale = _float32(tape, scale)
    wide_minimum = tape.op("Unsqueeze", [_float32(tape, minimum), _integers(tape, [-1])])
    blocked = ir.RefAttr("block_size", "block_size", ir.AttributeType.INT)
    product = tape.op("DequantizeLinear", [codes, wide_scale], {"axis": 1, "block_size": blocked})
    blocks = tape.op("Concat", [tape.op("Shape", [wide_scale]), _integers(tape, [-1])], {"axis": 0})
    summed = tape.op("Add", [tape.op("Reshape", [product, blocks]), wide_minimum])
    result = tape.op("Reshape", [summed, tape.op("Shape", [product])])
    return _function("DequantizeAffine", tape, inputs, result, integer_attributes=["block_size"])


def quantize_activation() -> ir.Function:
    """`QuantizeActivation(x; group)`: `x` rounded to int8 codes with one scale per group, dequantised again.

    The last axis of `x` (float32, any rank) is cut into groups of `group`, which must divide it. In each:
    `inverse = 127 / max|x|`, `code = Round(x · inverse)` half to even, `y = code · (max|x| · (1 / 127))`.
    A group of zeros stays zero.
    """
    tape = Tape()
    inputs = (x,) = _values("x")
    grouped = tape.op("Reshape", [x, _grouped_shape(tape, x)])
    largest = tape.op("ReduceMax", [tape.op("Abs", [grouped]), _integers(tape, [-1])], {"keepdims": 1})
    is_zero = tape.op("Equal", [largest, _scalar(tape, 0.0)])
    divisor = tape.op("Where", [is_zero, _scalar(tape, 1.0), largest])
    inverse = tape.op("Div", [_scalar(tape, 127.0), divisor])
    code = tape.op("Round", [tape.op("Mul", [grouped, inverse])])
    scale = tape.op("Mul", [largest, _scalar(tape, 1.0 / 127.0)])
    result = tape.op("Reshape", [tape.op("Mul", [code, scale]), tape.op("Shape", [x])])
    return _function("QuantizeActivation", tape, inputs, result, integer_attributes=["group"])


def swiglu() -> ir.Function:
    """`SwiGLU(gate, up) = gate · sigmoid(gate) · up`, element by element."""
    tape = Tape()
    gate, up = inputs = _values("gate", "up")
    activated = tape.op("Mul", [gate, tape.op("Sigmoid", [gate])])
    return _function("SwiGLU", tape, inputs, tape.op("Mul", [activated, up]))


def geglu() -> ir.Function:
    """`GeGLU(gate, up; approximate) = Gelu(gate; approximate) · up`, element by element.

    `approximate` is `none` (by the error function) or `tanh`.
    """
    tape = Tape()
    gate, up = inputs = _values("gate", "up")
    approximate = ir.RefAttr("approximate", "approximate", ir.AttributeType.STRING)
    activated = tape.op("Gelu", [gate], {"approximate": approximate})
    result = tape.op("Mul", [activated, up])
    return _function("GeGLU", tape, inputs, result, string_attributes=["approximate"])


def _grouped_shape(tape: Tape, x: ir.Value) -> ir.Value:
    # [..., K] → [..., K / group, group]
    leading = tape.op("Shape", [x], {"start": 0, "end": -1})
    attribute = ir.RefAttr("value_int", "group", ir.AttributeType.INT)
    group = tape.op("Reshape", [tape.op("Constant", [], {"value_int": attribute}), _integers(tape, [1])])
    return tape.op("Concat", [leading, _integers(tape, [-1]), group], {"axis": 0})


def _function(
    name: str,
    tape: Tape,
    inputs: Sequence[ir.Value],
    result: ir.Value,
    integer_attributes: Sequence[str] = (),
    string_attributes: Sequence[str] = (),
) -> ir.Function:
    result.name = "result"
    graph = ir.Graph(inputs, [result], nodes=tape.nodes, opset_imports={"": OPSET}, name=name)
    attributes = [ir.Attr(one, ir.AttributeType.INT, None) for one in integer_attributes]
    attributes += [ir.Attr(one, ir.AttributeType.STRING, None) for one in string_attributes]
    return ir.Function(DOMAIN, name, "", graph=graph, attributes=attributes)


def _values(*names: str) -> tuple[ir.Value, ...]:
    return tuple(ir.Value(name=name) for name in names)


def _float32(tape: Tape, value: ir.Value) -> ir.Value:
    return tape.op("Cast", [value], {"to": int(ir.DataType.FLOAT)})


def _integers(tape: Tape, numbers: list[int]) -> ir.Value:
    return tape.op("Constant", [], {"value_ints": numbers})


def _scalar(tape: Tape, number: float) -> ir.Value:
    return tape.op("Constant", [], {"value": ir.tensor(np.array(number, np.float32))})
