"""What the interpreter cannot run in a model: all of it, with where it occurs."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from intaglio.backends.reference.operators import OPERATORS
from intaglio.backends.reference.quantization import quantized_type
from intaglio.backends.reference.tensors import CODE_RANGES, is_supported
from intaglio.compiler.errors import UnsupportedModelError

_TYPE_ATTRIBUTES = ("to", "output_dtype", "precision", "softmax_precision")


def require_support(model: ir.Model) -> None:
    """Raise `UnsupportedModelError` that lists every op, attribute and element type we cannot run."""
    problems = [f"graph: {one}" for one in _graph_problems(model)]
    for function in model.functions.values():
        problems += [f"function {function.name}: {one}" for one in _node_problems(model, function)]
    if problems:
        raise UnsupportedModelError("[reference] the model holds what the interpreter cannot run:", problems)


def _graph_problems(model: ir.Model) -> Iterator[str]:
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        if value.dtype is None or not is_supported(value.dtype):
            yield f"{value.name!r} is of element type {value.dtype}"
    yield from _node_problems(model, model.graph)


def _node_problems(model: ir.Model, body: ir.Graph | ir.Function) -> Iterator[str]:
    for node in body:
        if node.op_identifier() in model.functions:
            continue
        if node.domain or node.op_type not in OPERATORS:
            yield f"op {'.'.join(filter(None, (node.domain, node.op_type)))} at {node.name!r}"
            continue
        yield from (f"{node.op_type} at {node.name!r}: {one}" for one in _attribute_problems(node))


def _attribute_problems(node: ir.Node) -> Iterator[str]:
    understood = OPERATORS[node.op_type].attributes
    yield from (f"attribute {name!r}" for name in node.attributes if name not in understood)
    for name in _TYPE_ATTRIBUTES:
        attribute = node.attributes.get(name)
        if attribute is None or attribute.is_ref() or not attribute.as_int():
            continue
        if not is_supported(ir.DataType(attribute.as_int())):
            yield f"{name}={ir.DataType(attribute.as_int()).name}"
    if node.op_type == "QuantizeLinear" and _result_type(node) not in CODE_RANGES:
        yield "the type of the codes is not declared, or not an integer: set output_dtype"


def _result_type(node: ir.Node) -> ir.DataType | None:
    attribute = node.attributes.get("output_dtype")
    return quantized_type(node, 0 if attribute is None or attribute.is_ref() else attribute.as_int())
