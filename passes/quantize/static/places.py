"""Where activations become bytes: whole chains of operators, so that they stay bytes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.passes.quantize.static.layers import Layer, find_layers
from intaglio.passes.rewriting import constant, scalar

FLOAT = ir.DataType.FLOAT
# onnxruntime has kernels for bytes of these, where they stand between dequantising and quantising.
CARRIERS = frozenset(
    {
        "Add",
        "AveragePool",
        "Concat",
        "Flatten",
        "GlobalAveragePool",
        "HardSwish",
        "MaxPool",
        "Mul",
        "Resize",
        "Reshape",
        "Sigmoid",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
GATES = ("HardSigmoid", "Sigmoid")  # of small vectors: their input and output are rounded, they are not
ABSORBED = ("Relu", "Clip")  # behind a convolution: the range of the grid does their work


@dataclass(frozen=True)
class Places:
    """The layers that compute with bytes, and the values that are rounded for that."""

    layers: tuple[Layer, ...]
    values: tuple[ir.Value, ...]  # in the order of the graph, inputs of the graph first


def places_of(model: ir.Model, sites: Collection[str]) -> Places:
    """What to round so that the layers `sites` compute with bytes."""
    layers = tuple(one for one in find_layers(model) if one.site in sites)
    rounded = {one.input: None for one in layers}
    rounded |= {absorbed(one.output): None for one in layers if one.kind == "convolution"}
    for node in model.graph:
        rounded |= dict.fromkeys(_carried(node, rounded))
    known = set(rounded)
    ordered = [one for one in model.graph.inputs if one in known]
    ordered += [one for node in model.graph for one in node.outputs if one in known]
    return Places(layers, tuple(ordered))


def needs(layer: Layer, places: Places) -> set[ir.Value]:
    """The rounded values that `layer` reads or makes; with what is carried between such."""
    made = {layer.input, absorbed(layer.output)} if layer.kind == "convolution" else {layer.input}
    reached = {one for one in places.values if one in made}
    for value in places.values:
        node = value.producer()
        if node is not None and not reached.isdisjoint(node.inputs):
            reached.add(value)
    return reached


def absorbed(value: ir.Value) -> ir.Value:
    """`value`, or what a `Relu` or `Clip` to constants makes of it that alone reads it."""
    readers = [use.node for use in value.uses()]
    if len(readers) != 1 or value.is_graph_output() or readers[0].domain:
        return value
    node = readers[0]
    fits = node.op_type in ABSORBED and all(
        scalar(one) is not None for one in node.inputs[1:] if one is not None
    )
    return node.outputs[0] if fits else value


def _carried(node: ir.Node, rounded: Collection[ir.Value]) -> Iterator[ir.Value]:
    """The outputs of `node` that are rounded because all that it reads is."""
    if node.domain or node.op_type not in CARRIERS | set(GATES) or len(node.outputs) != 1:
        return
    read = [one for one in activations_of(node) if one is not None]
    if not read or node.outputs[0].dtype not in (FLOAT, None):
        return
    if all(one in rounded for one in read) and _has_no_constant_operand(node):
        yield node.outputs[0]


def activations_of(node: ir.Node) -> list[ir.Value | None]:
    """The inputs of `node` that hold activations; not shapes, axes and the like."""
    many = node.op_type in ("Add", "Concat", "Mul")
    return list(node.inputs) if many else list(node.inputs[:1])


def _has_no_constant_operand(node: ir.Node) -> bool:
    return all(one is None or constant(one, 1 << 30) is None for one in activations_of(node))
