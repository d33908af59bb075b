"""Parts of a graph that onnxruntime runs between stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from intaglio.backends.tvm.graphs.builder import TableBuilder, dtype_of, shape_of
from intaglio.backends.tvm.graphs.constants import is_stored
from intaglio.backends.tvm.graphs.nodes import site_of
from intaglio.backends.tvm.graphs.program import Port, RegionCall
from intaglio.backends.tvm.graphs.views import View, row_major
from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.ir.extract import extract


@dataclass
class Pending:
    """Nodes that wait to be a region: it grows until a stage needs what they compute."""

    nodes: dict[ir.Node, None] = field(default_factory=dict)

    def makes(self, value: ir.Value | None) -> bool:
        """Whether one of the nodes computes `value`."""
        node = None if value is None else value.producer()
        return node is not None and node in self.nodes

    def outputs(self) -> list[ir.Value]:
        """What others than these nodes read."""
        return [
            value
            for node in self.nodes
            for value in node.outputs
            if value.is_graph_output() or any(use.node not in self.nodes for use in value.uses())
        ]

    def inputs(self) -> list[ir.Value]:
        """What these nodes read and do not compute."""
        read = dict.fromkeys(one for node in self.nodes for one in _reads(node))
        return [one for one in read if not self.makes(one) and not is_stored(one)]


@dataclass(frozen=True)
class Region:
    """A part for another backend to write into `file`."""

    file: str
    model: ir.Model


def supposed(pending: Pending) -> dict[ir.Value, View]:
    """Where what `pending` computes would lie: row-major."""
    known = (one for one in pending.outputs() if one.shape is not None and one.shape.is_static())
    return {one: View(-1, dtype_of(one), shape_of(one), row_major(shape_of(one))) for one in known}


def append_region(table: TableBuilder, pending: Pending, graph: ir.Graph, file: str) -> Region:
    """Append a call of all pending nodes. Raises `UnsupportedModelError` where their sizes are not fixed."""
    inputs, outputs = pending.inputs(), pending.outputs()
    open_sizes = [str(one.name) for one in outputs if one.shape is None or not one.shape.is_static()]
    if open_sizes:
        raise UnsupportedModelError("[tvm] sizes that depend on values", open_sizes)
    model = extract(graph, inputs, outputs)
    assert model is not None, "all that the region reads is among its inputs"
    for one in outputs:
        table.plain(one)
    ports = tuple(_port(one, table.views[one]) for one in inputs)
    results = tuple(_port(one, table.views[one]) for one in outputs)
    first = next(iter(pending.nodes))
    table.call_region(RegionCall(file, len(table.stages), ports, results, site_of(first)))
    pending.nodes.clear()
    return Region(file, model)


def port_of(name: str, view: View) -> Port:
    """A port at `view`."""
    return Port(name, view.buffer, view.dtype, view.shape, view.strides, view.offset, view.plain)


def _port(value: ir.Value, view: View) -> Port:
    return port_of(str(value.name), view)


def _reads(node: ir.Node) -> Sequence[ir.Value]:
    """The values a node reads, those that its subgraphs take from outside included."""
    found = [one for one in node.inputs if one is not None]
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found += _captured(attribute.as_graph())
    return found


def _captured(graph: ir.Graph) -> list[ir.Value]:
    inside = {value for node in graph for value in node.outputs} | set(graph.inputs)
    inside |= set(graph.initializers.values())
    read = [one for node in graph for one in _reads(node)] + list(graph.outputs)
    return [one for one in read if one not in inside]
