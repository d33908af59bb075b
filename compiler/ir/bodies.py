"""The bodies of a model: the main graph, functions, and graphs inside nodes such as `If` and `Loop`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class Body:
    """A list of nodes, the place where it stands, and the opsets that hold there."""

    place: str
    content: ir.Graph | ir.Function
    opsets: Mapping[str, int]
    outer: frozenset[ir.Value] = frozenset()  # values of bodies around it that are defined by then

    def given(self) -> set[ir.Value]:
        """Its own inputs and initialisers."""
        content = self.content
        stored = content.initializers.values() if isinstance(content, ir.Graph) else ()
        return {*content.inputs, *stored}


def bodies(model: ir.Model) -> Iterator[Body]:
    """Every body of `model`, outer ones before those inside them."""
    yield from _within(Body("graph", model.graph, model.graph.opset_imports))
    for function in model.functions.values():
        yield from _within(Body(f"function {function.name}", function, function.opset_imports))


def subgraphs(node: ir.Node) -> list[ir.Graph]:
    """The graphs that `node` holds."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found += attribute.as_graphs()
    return found


def _within(body: Body) -> Iterator[Body]:
    yield body
    defined = set(body.outer) | body.given()
    for node in body.content:
        for graph in subgraphs(node):
            place = f"{body.place} / {node.op_type} {node.name!r}"
            yield from _within(Body(place, graph, body.opsets, frozenset(defined)))
        defined |= set(node.outputs)
