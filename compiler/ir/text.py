"""The readable text form of a model: one line per node, shapes and dtypes shown, weights summarised.

The same model always gives the same text: functions, weights, attributes are sorted; nodes keep their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

_SHOWN_ELEMENTS = 8
_DTYPE_ATTRIBUTES = ("to", "output_dtype", "precision", "softmax_precision")


def to_text(model: ir.Model) -> str:
    """The whole model: opsets, the graph, and every function."""
    opsets = ", ".join(
        f"{domain or 'onnx'} {version}" for domain, version in sorted(model.opset_imports.items())
    )
    blocks = [f"model: {opsets}", graph_to_text(model.graph)]
    blocks += [function_to_text(model.functions[one]) for one in sorted(model.functions)]
    return "\n\n".join(blocks) + "\n"


def graph_to_text(graph: ir.Graph) -> str:
    """One graph: its signature, its weights by name, its nodes in order."""
    lines = [f"graph {graph.name}({_typed(graph.inputs)}) -> ({_typed(graph.outputs)})"]
    lines += [_weight_line(graph.initializers[name]) for name in sorted(graph.initializers)]
    return "\n".join([*lines, *_node_lines(graph)])


def function_to_text(function: ir.Function) -> str:
    """One function: its signature and attributes, its nodes in order."""
    name = _operator(function.domain, function.name, function.overload)
    attributes = "".join(f" {{{one}}}" for one in sorted(function.attributes))
    head = f"function {name}{attributes}({_typed(function.inputs)}) -> ({_typed(function.outputs)})"
    return "\n".join([head, *_node_lines(function)])


def type_to_text(value: ir.Value) -> str:
    """`float32[batch, 576]`, or `?` where nothing is known."""
    if value.dtype is None and value.shape is None:
        return "?"
    dtype = "?" if value.dtype is None else _dtype(value.dtype)
    return dtype + ("[…]" if value.shape is None else shape_to_text(value.shape))


def shape_to_text(shape: ir.Shape | ir.ShapeProtocol) -> str:
    """`[batch, 576]`."""
    return "[" + ", ".join(str(one if isinstance(one, int) else one.value or "?") for one in shape) + "]"


def attribute_to_text(attribute: ir.Attr) -> str:
    """`axis=1`; `group=@group` where it is the function's own; tensors with their values when small."""
    if attribute.is_ref():
        return f"{attribute.name}=@{attribute.ref_attr_name}"
    if attribute.type == ir.AttributeType.TENSOR:
        return f"{attribute.name}={_tensor(attribute.as_tensor())}"
    if attribute.name in _DTYPE_ATTRIBUTES and attribute.value:
        return f"{attribute.name}={_dtype(ir.DataType(attribute.as_int()))}"
    if attribute.type == ir.AttributeType.FLOAT:
        return f"{attribute.name}={np.float32(attribute.as_float())!s}"
    value = list(attribute.value) if isinstance(attribute.value, tuple) else attribute.value
    return f"{attribute.name}={value!r}"


def _node_lines(nodes: Iterable[ir.Node]) -> Iterator[str]:
    for node in nodes:
        outputs = ", ".join(f"{_name(one)}: {type_to_text(one)}" for one in node.outputs)
        inputs = ", ".join("–" if one is None else _name(one) for one in node.inputs)
        attributes = "".join(f" {attribute_to_text(node.attributes[one])}" for one in sorted(node.attributes))
        yield f"  {outputs} = {_operator(*node.op_identifier())}({inputs}){attributes}"


def _weight_line(value: ir.Value) -> str:
    described = "?" if value.const_value is None else _tensor(value.const_value)
    return f"  weight {_name(value)}: {described}"


def _tensor(tensor: ir.TensorProtocol) -> str:
    described = _dtype(tensor.dtype) + shape_to_text(tensor.shape)
    if tensor.size <= _SHOWN_ELEMENTS:
        return f"{described} = {tensor.numpy().tolist()}"
    return f"{described} ({tensor.nbytes} bytes)"


def _typed(values: Iterable[ir.Value]) -> str:
    return ", ".join(f"{_name(one)}: {type_to_text(one)}" for one in values)


def _operator(domain: str, op_type: str, overload: str) -> str:
    return f"{domain}." * bool(domain) + op_type + f":{overload}" * bool(overload)


def _name(value: ir.Value) -> str:
    return value.name or "(unnamed)"


def _dtype(dtype: ir.DataType) -> str:
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype.name, dtype.name.lower())
