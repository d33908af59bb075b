"""Structural hash of a graph or function: equal hashes mean the same computation over other weights.

Counted: operators with overloads and attributes, topology, order of inputs and outputs, dtypes and shapes,
and small int64 initialisers (axes, shapes, split sizes), which are structure. Not counted: names, weight
values, documentation, nodes that reach no output, and the order in which independent nodes stand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.ir.index_arithmetic import is_structure
from intaglio.compiler.ir.text import shape_to_text, type_to_text

_DIGITS = 16


def structural_hash(graph: ir.Graph | ir.Function) -> str:
    """Sixteen hexadecimal digits; raises `UnsupportedModelError` where a node holds a subgraph."""
    digest = hashlib.sha256("\n".join(_lines(graph)).encode()).hexdigest()
    return digest[:_DIGITS]


def _lines(graph: ir.Graph | ir.Function) -> Iterator[str]:
    if isinstance(graph, ir.Function):
        yield "attributes " + " ".join(
            f"{one}:{graph.attributes[one].type}" for one in sorted(graph.attributes)
        )
    numbers: dict[ir.Value, int] = {}
    for value in graph.inputs:
        yield f"{_number(numbers, value)} input {type_to_text(value)}"
    for found in _reachable(graph.outputs):
        yield from _leaf_line(numbers, found) if isinstance(found, ir.Value) else _node_line(numbers, found)
    yield "outputs " + " ".join(str(numbers[value]) for value in graph.outputs)


def _reachable(outputs: Sequence[ir.Value]) -> Iterator[ir.Node | ir.Value]:
    """Nodes, each after what it needs, and values without producer, in the order the outputs ask for them."""
    seen: set[ir.Node | ir.Value] = set()
    pending = [(value.producer() or value, False) for value in reversed(outputs)]
    while pending:
        item, ready = pending.pop()
        if ready or (isinstance(item, ir.Value) and item not in seen):
            yield item
        if item in seen:
            continue
        seen.add(item)
        if isinstance(item, ir.Node):
            pending.append((item, True))
            needed = [value.producer() or value for value in item.inputs if value is not None]
            pending += [(one, False) for one in reversed(needed)]


def _leaf_line(numbers: dict[ir.Value, int], value: ir.Value) -> Iterator[str]:
    if value in numbers:
        return  # an input
    tensor = value.const_value
    if tensor is None:
        yield f"{_number(numbers, value)} value {type_to_text(value)}"
        return
    content = tensor.numpy().tolist() if is_structure(tensor) else ""
    yield f"{_number(numbers, value)} weight {tensor.dtype}{shape_to_text(tensor.shape)} {content}"


def _node_line(numbers: dict[ir.Value, int], node: ir.Node) -> Iterator[str]:
    inputs = ["" if one is None else str(numbers[one]) for one in node.inputs]
    attributes = [_attribute(node, node.attributes[one]) for one in sorted(node.attributes)]
    outputs = [f"{_number(numbers, one)}:{type_to_text(one)}" for one in node.outputs]
    yield f"{outputs} = {node.op_identifier()} {inputs} {attributes}"


def _attribute(node: ir.Node, attribute: ir.Attr) -> str:
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        problem = f"{node.op_type} {node.name!r} holds a subgraph in {attribute.name!r}"
        raise UnsupportedModelError("[structural_hash] control flow is not supported; unroll it", [problem])
    if attribute.type != ir.AttributeType.TENSOR or attribute.is_ref():
        return f"{attribute.name}:{attribute.type}={attribute.ref_attr_name or attribute.value!r}"
    tensor = attribute.as_tensor()
    content = hashlib.sha256(tensor.tobytes()).hexdigest()
    return f"{attribute.name}={tensor.dtype}{shape_to_text(tensor.shape)} {content}"


def _number(numbers: dict[ir.Value, int], value: ir.Value) -> int:
    return numbers.setdefault(value, len(numbers))
