"""A graph as a networkx `DiGraph`, for everything graph theory already solved."""

from __future__ import annotations

import networkx
import onnx_ir as ir


def to_networkx(graph: ir.Graph | ir.Function) -> networkx.DiGraph:
    """Nodes are `ir.Node`s with attributes `operator` and `name`; an edge runs from producer to consumer.

    Each edge has `values`: the tuple of `ir.Value`s that pass along it. Graph inputs and initialisers
    have no producer and therefore no edge.
    """
    view = networkx.DiGraph()
    for node in graph:
        view.add_node(node, operator=node.op_type, name=node.name)
    for node in graph:
        for value in node.inputs:
            _connect(view, value, node)
    return view


def _connect(view: networkx.DiGraph, value: ir.Value | None, consumer: ir.Node) -> None:
    producer = None if value is None else value.producer()
    if producer is None or producer not in view:
        return
    passed = view.edges[producer, consumer]["values"] if view.has_edge(producer, consumer) else ()
    if value not in passed:
        view.add_edge(producer, consumer, values=(*passed, value))
