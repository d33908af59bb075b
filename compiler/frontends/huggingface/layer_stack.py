"""From a graph with one layer of each kind to one with all layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.compiler.frontends.huggingface.layers import Layers, representatives_of
from intaglio.compiler.frontends.huggingface.scopes import SCOPES, place_in, rescoped


class NotStackable(Exception):
    """Layers exchange more than one value, so that none can stand for another."""


@dataclass(frozen=True)
class Region:
    """The nodes of one layer, in order, between the value that enters and the one that leaves."""

    nodes: tuple[ir.Node, ...]
    entering: ir.Value
    leaving: ir.Value


def stack(model: ir.Model, layers: Layers, path: str, moving: Iterable[ir.Value]) -> None:
    """Repeat the layers of `model` in place, so that it has as many as `layers` says.

    `path` is where its layers are, as scopes have it, and `moving` are the weights: what depends on none of
    them is shared by all layers (positions, rotary tables) even where it stands inside one. Initialisers
    `{path}.{place}.x` become `{path}.{layer}.x`. Raises `NotStackable`.
    """
    graph = model.graph
    places = representatives_of(layers.kinds)
    moved = _dependents(graph, set(moving))
    inside = {node: place for node in graph if node in moved and (place := place_in(node, path)) is not None}
    regions = _regions(graph, inside, moved, len(places))
    after = _dependents(graph, {regions[-1].leaving})
    before = [node for node in graph if node not in inside and node not in after]
    behind = [node for node in graph if node not in inside and node in after]
    copies, current = [], regions[0].entering
    for index, kind in enumerate(layers.kinds):
        place = places[kind]
        weights = _weights(graph, regions[place].nodes, f"{path}.{place}.", f"{path}.{index}.")
        values = {**weights, regions[place].entering: current}
        nodes, current = _copied(regions[place], values, f"{path}.{place}", f"{path}.{index}")
        copies += nodes
    regions[-1].leaving.replace_all_uses_with(current, replace_graph_outputs=True)
    graph.remove(list(inside), safe=True)
    graph.remove(list(graph))
    graph.extend([*before, *copies, *behind])


def _regions(graph: ir.Graph, inside: Mapping[ir.Node, int], moved: set[ir.Node], count: int) -> list[Region]:
    """The layers; each must take one moving value, from the layer before, and give one."""
    nodes: list[list[ir.Node]] = [[] for _ in range(count)]
    for node in graph:
        if node in inside:
            nodes[inside[node]].append(node)
    regions: list[Region] = []
    for own in nodes:
        entering = _entering(own, moved)
        leaving = [value for node in own for value in node.outputs if _is_used_outside(value, set(own))]
        chained = not regions or entering == [regions[-1].leaving]
        if len(entering) != 1 or len(leaving) != 1 or not chained:
            raise NotStackable
        regions.append(Region(tuple(own), entering[0], leaving[0]))
    return regions


def _entering(own: Sequence[ir.Node], moved: set[ir.Node]) -> list[ir.Value]:
    """Moving values from outside that are no weights."""
    inside = set(own)
    used = dict.fromkeys(value for node in own for value in node.inputs if value is not None)
    return [value for value in used if (maker := value.producer()) in moved and maker not in inside]


def _is_used_outside(value: ir.Value, own: set[ir.Node]) -> bool:
    return value.is_graph_output() or any(use.node not in own for use in value.uses())


def _dependents(graph: ir.Graph, sources: set[ir.Value]) -> set[ir.Node]:
    """Nodes that depend on any of `sources`; the graph is in topological order."""
    reached, nodes = set(sources), set()
    for node in graph:
        if any(value in reached for value in node.inputs):
            nodes.add(node)
            reached.update(node.outputs)
    return nodes


def _weights(graph: ir.Graph, nodes: Sequence[ir.Node], old: str, new: str) -> dict[ir.Value, ir.Value]:
    """The initialisers of one layer, each with that of another layer in its place."""
    replaced = {}
    for value in dict.fromkeys(value for node in nodes for value in node.inputs if value is not None):
        if value.is_initializer() and (value.name or "").startswith(old):
            name = new + (value.name or "").removeprefix(old)
            other = graph.initializers.get(name) or ir.Value(name=name, type=value.type, shape=value.shape)
            graph.initializers[name] = other
            replaced[value] = other
    return replaced


def _copied(
    region: Region, values: dict[ir.Value, ir.Value], old: str, new: str
) -> tuple[list[ir.Node], ir.Value]:
    """Nodes like those of `region` with other values entering, and the value that leaves."""
    copies = []
    for node in region.nodes:
        inputs = [None if value is None else values.get(value, value) for value in node.inputs]
        outputs = [ir.Value(type=one.type, shape=one.shape) for one in node.outputs]
        copy = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            node.attributes.values(),
            overload=node.overload,
            outputs=outputs,
            metadata_props={**node.metadata_props, SCOPES: rescoped(node, old, new)},
        )
        values.update(zip(node.outputs, outputs, strict=True))
        copies.append(copy)
    return copies, values[region.leaving]
