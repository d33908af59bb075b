"""Small questions about nodes and constants."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

SITE = "intaglio.site"


def site_of(node: ir.Node) -> str:
    """What `node` is called in profiles."""
    return node.metadata_props.get(SITE) or node.name or node.outputs[0].name or node.op_type


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """Input `index` of `node`; `None` where it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The array behind `value` if it is an initialiser or a `Constant`."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def made_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that makes `value`, if it is this standard op."""
    node = value.producer() if value is not None else None
    return node if node is not None and not node.domain and node.op_type == op_type else None
