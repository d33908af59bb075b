"""bfloat16 graphs in float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.passes.result import Applied, PassResult

NARROW, WIDE = ir.DataType.BFLOAT16, ir.DataType.FLOAT
# Attributes that hold a type.
TYPES = frozenset({"to", "dtype", "output_dtype", "stash_type", "softmax_precision"})


@dataclass(frozen=True)
class WidenBfloat16:
    """Every bfloat16 value of the model → float32, ports included; initialisers `W` → `Cast(W → float32)`.

    Sums and products are then rounded less than the model's own, never more. Weights stay as they are stored.
    """

    name: str = "widen_bfloat16"

    def __call__(self, model: ir.Model) -> PassResult:
        """Widen the main graph, subgraphs and functions."""
        graphs = [*model.graphs(), *(function.graph for function in model.functions.values())]
        weights = sum(_widen_initializers(graph) for graph in graphs)
        values = sum(_widen_value(value) for graph in graphs for value in _values(graph))
        attributes = sum(_widen_attributes(node) for graph in graphs for node in graph)
        if not weights + values + attributes:
            return PassResult(model)
        detail = f"{values} values and {weights} weights of bfloat16 are computed in float32"
        return PassResult(model, (Applied(self.name, "model", detail),))


def _widen_initializers(graph: ir.Graph) -> int:
    narrow = [one for one in graph.initializers.values() if one.dtype == NARROW]
    for value in narrow:
        cast = ir.node("Cast", [value], {"to": int(WIDE)}, name=f"{value.name}.float32")
        (wide,) = cast.outputs
        wide.name, wide.type, wide.shape = f"{value.name}.float32", ir.TensorType(WIDE), value.shape
        value.replace_all_uses_with(wide, replace_graph_outputs=True)
        cast.replace_input_with(0, value)
        _prepend(graph, cast)
    return len(narrow)


def _prepend(graph: ir.Graph, node: ir.Node) -> None:
    first = next(iter(graph), None)
    if first is None:
        graph.append(node)
    else:
        graph.insert_before(first, node)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs


def _widen_value(value: ir.Value) -> bool:
    if value.dtype != NARROW:
        return False
    value.dtype = WIDE
    return True


def _widen_attributes(node: ir.Node) -> bool:
    changed = False
    for name, one in list(node.attributes.items()):
        if one.is_ref():
            continue
        if one.type == ir.AttributeType.INT and name in TYPES and one.as_int() == NARROW:
            node.attributes[name] = ir.AttrInt64(name, int(WIDE))
            changed = True
        elif one.type == ir.AttributeType.TENSOR and one.as_tensor().dtype == NARROW:
            wide = one.as_tensor().numpy().astype("float32")
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(wide))
            changed = True
    return changed
