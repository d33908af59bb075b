"""Small steps that every rewrite needs: reading constants, inserting nodes, replacing values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

SITE = "intaglio.site"
SMALL = 65536  # elements; larger tensors are weights, and reading them is left to those who mean to
Attributes = Mapping[str, int | float | str | Sequence[int] | ir.TensorProtocol]


def constant(value: ir.Value | None, limit: int = SMALL) -> NDArray[np.generic] | None:
    """The array behind `value` if it is an initialiser or a `Constant` of at most `limit` elements."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size > limit:
        return None
    return tensor.numpy()


def integers(value: ir.Value | None) -> list[int] | None:
    """The numbers behind `value` if it is an integer constant."""
    array = constant(value)
    if array is None or array.dtype.kind not in "iu":
        return None
    return [int(one) for one in array.reshape(-1)]


def scalar(value: ir.Value | None) -> float | None:
    """The number behind `value` if it is a constant of one element."""
    array = constant(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def made_by(value: ir.Value | None, *op_types: str, domain: str = "") -> ir.Node | None:
    """The node that makes `value`, if its op is one of `op_types`."""
    node = value.producer() if value is not None else None
    if node is None or node.domain != domain or node.op_type not in op_types:
        return None
    return node


def is_op(node: ir.Node, op_type: str, domain: str = "") -> bool:
    """Whether `node` is this op."""
    return node.op_type == op_type and node.domain == domain


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """Input `index` of `node`; `None` where it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def insert(
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Attributes | None = None,
    *,
    domain: str = "",
    name: str | None = None,
    outputs: int = 1,
) -> ir.Node:
    """Put a new node into the graph of `before`, ahead of it; `name` (a new one) names its outputs too."""
    node = ir.node(op_type, inputs, attributes, domain=domain, num_outputs=outputs, name=name)
    for index, value in enumerate(node.outputs if name else ()):
        value.name = name if outputs == 1 else f"{name}.{index}"
    graph = before.graph
    assert graph is not None, "only nodes of a graph can be rewritten"
    graph.insert_before(before, node)
    return node


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Let all that use `old`, graph outputs included, use `new`, which gets name and type."""
    name, old.name = old.name, f"{old.name}.superseded"
    new.type, new.shape = new.type or old.type, new.shape or old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name = name


def bypass(old: ir.Value, new: ir.Value) -> bool:
    """Let all that use `old` use `new`, which keeps its own name unless `old` is a graph output.

    False, and nothing changed, where an output of the graph would become an input, a weight or two outputs.
    """
    if not old.is_graph_output():
        old.replace_all_uses_with(new)
        return True
    if new.producer() is None or new.is_graph_output():
        return False
    take_over(old, new)
    return True


def supersede(old: ir.Node, new: ir.Node) -> None:
    """Put `new` in the place of `old`: its users, its name, the names of its outputs, and its metadata."""
    name, old.name = old.name, f"{old.name}.superseded"
    new.name = name
    new.metadata_props.update(old.metadata_props)
    for before, after in zip(old.outputs, new.outputs, strict=True):
        take_over(before, after)


def sizes(value: ir.Value | None) -> list[int | str | None] | None:
    """Sizes and names of sizes; `None` where the rank is unknown, and for each size without a name."""
    if value is None or value.shape is None:
        return None
    return [one if isinstance(one, int) else one.value for one in value.shape]


def rank(value: ir.Value | None) -> int | None:
    """The number of axes of `value`, where it is known."""
    return None if value is None or value.shape is None else len(value.shape)


def described(like: ir.Value, value: ir.Value, shape: Sequence[int | str | None] | None) -> ir.Value:
    """`value` with the element type of `like` and the given shape."""
    value.type, value.shape = like.type, None if shape is None else ir.Shape(shape)
    return value


def rename_initializer(graph: ir.Graph, value: ir.Value, name: str) -> None:
    """Give an initialiser a name that is free."""
    del graph.initializers[value.name or ""]
    value.name = name
    if value.const_value is not None:
        value.const_value.name = name
    graph.register_initializer(value)


def remove_unused(model: ir.Model) -> None:
    """Remove nodes and initialisers that nothing uses any more."""
    RemoveUnusedNodesPass()(model)


def site_of(node: ir.Node) -> str:
    """The name of the site that `node` stands for."""
    return node.metadata_props.get(SITE) or node.name or node.outputs[0].name or node.op_type


def count(model: ir.Model, op_type: str, domain: str = "") -> int:
    """How many nodes of this op the main graph has."""
    return sum(is_op(node, op_type, domain) for node in model.graph)
