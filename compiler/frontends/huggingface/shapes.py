"""Shapes of values for which the exporter notes none: those between the nodes of one torch operator."""

from __future__ import annotations

import onnx_ir as ir

from intaglio.passes.rewriting import sizes

_UNARY = ("Sqrt", "Reciprocal", "Sigmoid", "Erf", "Tanh", "Exp", "Neg", "Identity", "Softplus", "Relu", "Abs")
_BINARY = ("Add", "Sub", "Mul", "Div", "Pow")


def describe(node: ir.Node) -> None:
    """Give the output of `node` type and shape where they follow from its inputs and are not known."""
    if node.domain or len(node.outputs) != 1 or node.outputs[0].shape is not None:
        return
    known = [value for value in node.inputs if value is not None and value.shape is not None]
    if len(known) != len(node.inputs) or not known:
        return
    shape = _shape(node, known)
    if shape is not None:
        node.outputs[0].shape = ir.Shape(shape)
        node.outputs[0].type = node.outputs[0].type or ir.TensorType(_dtype(node, known[0]))


def _shape(node: ir.Node, inputs: list[ir.Value]) -> list[int | str | None] | None:
    first = sizes(inputs[0])
    assert first is not None, "only values with shapes come here"
    if node.op_type in _UNARY or node.op_type == "Cast":
        return first
    if node.op_type == "Transpose" and "perm" in node.attributes:
        return [first[axis] for axis in node.attributes["perm"].as_ints()]
    if node.op_type == "Shape":
        end = node.attributes.get_int("end", len(first))
        return [len(first[node.attributes.get_int("start", 0) : end])]
    return _broadcast(inputs) if node.op_type in _BINARY else None


def _broadcast(inputs: list[ir.Value]) -> list[int | str | None] | None:
    """Only where one side is of one element, or both are of equal shape."""
    shapes = [shape for value in inputs if (shape := sizes(value)) is not None and shape]
    longest = max(shapes, key=len, default=[])
    return longest if all(shape in (longest, [1]) for shape in shapes) else None


def _dtype(node: ir.Node, first: ir.Value) -> ir.DataType:
    if node.op_type == "Shape":
        return ir.DataType.INT64
    cast = node.attributes.get_int("to", 0) if node.op_type == "Cast" else 0
    return ir.DataType(cast) if cast else first.dtype or ir.DataType.UNDEFINED
