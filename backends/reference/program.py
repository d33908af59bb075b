"""A graph or function body prepared for running: what to free after each step, what to keep between runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class Step:
    """One node. After it, nobody needs `last_uses`; `constant`: the same in every run."""

    node: ir.Node
    last_uses: tuple[ir.Value, ...]
    constant: bool


@dataclass(frozen=True)
class Program:
    """Steps in order; `kept` holds the constant values that varying steps or outputs need."""

    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]
    steps: tuple[Step, ...]
    kept: frozenset[ir.Value]


def prepare(body: ir.Graph | ir.Function, *, keep_constants: bool = False) -> Program:
    """Plan the run of `body`; with `keep_constants`, values that no input reaches are computed once."""
    nodes, outputs = list(body), tuple(body.outputs)
    constant = _constant_values(body) if keep_constants else frozenset()
    varying = [node for node in nodes if not constant.issuperset(node.outputs)]
    kept = constant.intersection([*_inputs_of(varying), *outputs])
    last_user = {value: node for node in nodes for value in _inputs_of([node])}
    unused = {value: node for node in nodes for value in node.outputs if value not in last_user}
    freed = _group({**last_user, **unused}, spared={*outputs, *kept})
    steps = tuple(Step(node, freed.get(node, ()), constant.issuperset(node.outputs)) for node in nodes)
    return Program(tuple(body.inputs), outputs, steps, kept)


def _constant_values(body: ir.Graph | ir.Function) -> frozenset[ir.Value]:
    initializers = body.initializers.values() if isinstance(body, ir.Graph) else ()
    constant = set(initializers) - set(body.inputs)
    for node in body:
        if constant.issuperset(_inputs_of([node])):
            constant.update(node.outputs)
    return frozenset(constant)


def _inputs_of(nodes: Iterable[ir.Node]) -> list[ir.Value]:
    return [value for node in nodes for value in node.inputs if value is not None]


def _group(
    last_user: Mapping[ir.Value, ir.Node], spared: Collection[ir.Value]
) -> dict[ir.Node, tuple[ir.Value, ...]]:
    groups: dict[ir.Node, tuple[ir.Value, ...]] = {}
    for value, node in last_user.items():
        if value not in spared:
            groups[node] = (*groups.get(node, ()), value)
    return groups
