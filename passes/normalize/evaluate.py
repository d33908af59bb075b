"""The numbers of a part of a graph, by onnx's own reference implementation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from intaglio.passes.rewriting import SMALL, sizes

MOST_NODES = 200
Array = NDArray[np.generic]


@dataclass(frozen=True)
class Part:
    """A part of a graph that stays computable when the graph changes."""

    model: onnx.ModelProto
    names: Mapping[ir.Value, str]  # of its inputs

    def run(self, inputs: Mapping[ir.Value, Array]) -> Array | str:
        """Its value for those of `inputs` that it reads; why there is none where an op fails."""
        feeds = {self.names[one]: array for one, array in inputs.items() if one in self.names}
        try:
            (found,) = ReferenceEvaluator(self.model).run(None, feeds)
        except Exception as error:  # the evaluator raises whatever its Python code meets
            return f"computing it fails: {error}"
        return np.asarray(found)


def cut(value: ir.Value, inputs: Iterable[ir.Value], opset: int) -> Part | str:
    """What computes `value` from `inputs` and small constants alone; why there is no such part."""
    given = list(inputs)
    nodes = nodes_before(value, given)
    if isinstance(nodes, str):
        return nodes
    read = [one for node in nodes for one in node.inputs if one is not None]
    made = [one for node in nodes for one in node.outputs]
    names = {one: f"v{index}" for index, one in enumerate(dict.fromkeys([*read, *made, value]))}
    used = {one: names[one] for one in given if one in names}
    leaves = [one for one in names if one not in used and one.producer() is None]
    graph = onnx.helper.make_graph(
        [_node_proto(node, names) for node in nodes],
        "part",
        [onnx.helper.make_empty_tensor_value_info(one) for one in used.values()],
        [onnx.helper.make_empty_tensor_value_info(names[value])],
        [onnx.numpy_helper.from_array(_array(one), names[one]) for one in leaves],
    )
    return Part(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)]), used)


def nodes_before(value: ir.Value, inputs: Iterable[ir.Value]) -> list[ir.Node] | str:
    """The nodes, in order, that make `value` of `inputs` and small constants; why not where they do not."""
    given, order = set(inputs), dict[ir.Node, None]()
    pending = [(value, False)]
    while pending:
        one, ready = pending.pop()
        node = one.producer()
        if one in given or node in order:
            continue
        if node is None or node.domain or _has_subgraph(node):
            if problem := _leaf_problem(one):
                return problem
        elif ready:
            order[node] = None
        else:
            pending += [(one, True), *((inner, False) for inner in node.inputs if inner is not None)]
        if len(order) > MOST_NODES or len(pending) > MOST_NODES**2:
            return f"{value.name} takes more than {MOST_NODES} nodes to compute"
    return list(order)


def _leaf_problem(value: ir.Value) -> str | None:
    if value.const_value is not None and not value.is_graph_input():
        size = value.const_value.size
        return f"{value.name} is a weight of {size} elements" if size > SMALL else None
    node = value.producer()
    if node is None:
        return f"{value.name} {sizes(value)} is an input"
    return f"{value.name} is made by {node.domain or 'a subgraph of'} {node.op_type}"


def _has_subgraph(node: ir.Node) -> bool:
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(one.type in kinds for one in node.attributes.values())


def _node_proto(node: ir.Node, names: Mapping[ir.Value, str]) -> onnx.NodeProto:
    inputs = ["" if one is None else names[one] for one in node.inputs]
    proto = onnx.helper.make_node(node.op_type, inputs, [names[one] for one in node.outputs])
    proto.attribute.extend(ir.serde.serialize_attribute(one) for one in node.attributes.values())
    return proto


def _array(value: ir.Value) -> Array:
    assert value.const_value is not None, "a leaf is a constant"
    return value.const_value.numpy()
