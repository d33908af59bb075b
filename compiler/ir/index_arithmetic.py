"""The part of a decoder that computes with nothing but tokens and positions."""

from __future__ import annotations

import onnx_ir as ir

INPUTS = ("position", "input_ids")
STRUCTURE = 64  # elements; int64 initialisers up to this size are shapes, axes and offsets


def index_nodes(graph: ir.Graph) -> frozenset[ir.Node]:
    """Nodes that compute with nothing but `position`, `input_ids` and small int64 constants."""
    known = {one for one in graph.inputs if one.name in INPUTS}
    known |= {one for one in graph.initializers.values() if is_structure(one.const_value)}
    found = set()
    for node in graph:
        if node.domain or any(one is not None and one not in known for one in node.inputs):
            continue
        if node.op_type == "Constant" and not is_structure(ir.convenience.get_const_tensor(node.outputs[0])):
            continue
        found.add(node)
        known.update(node.outputs)
    return frozenset(found)


def is_structure(tensor: ir.TensorProtocol | None) -> bool:
    """Whether `tensor` is a shape, axes or the like: whole numbers, and few."""
    return tensor is not None and tensor.dtype == ir.DataType.INT64 and tensor.size <= STRUCTURE
