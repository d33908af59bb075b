"""Which compiled site computes which node of the graph: so that every node can be explained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.compiler.ir import DOMAIN
from intaglio.passes.rewriting import site_of


@dataclass(frozen=True)
class Maker:
    """What makes a value."""

    node: str
    reads: tuple[str, ...]  # values


def makers(graph: ir.Graph) -> dict[str, Maker]:
    """Value name → its maker, for every node of `graph`."""
    return {
        str(output.name): Maker(_name(node), tuple(str(one.name) for one in node.inputs if one is not None))
        for node in graph
        for output in node.outputs
    }


def members(before: Mapping[str, Maker], fused: ir.Graph) -> dict[str, str]:
    """Node name → the site that computes it, for the nodes there were `before` fusion.

    What no region computes is index arithmetic, which the runtime does itself: its site is empty.
    """
    found = dict.fromkeys((one.node for one in before.values()), "")
    for call in fused:
        if call.domain == DOMAIN:
            outputs = (str(one.name) for one in call.outputs)
            inputs = {str(one.name) for one in call.inputs if one is not None}
            found |= dict.fromkeys(_between(before, inputs, outputs), site_of(call))
    return found


def _between(before: Mapping[str, Maker], inputs: set[str], outputs: Iterable[str]) -> set[str]:
    """The nodes that make `outputs` from `inputs`."""
    pending, seen, nodes = list(outputs), set(inputs), set[str]()
    while pending:
        name = pending.pop()
        if name in seen or name not in before:
            continue
        seen.add(name)
        nodes.add(before[name].node)
        pending += before[name].reads
    return nodes


def _name(node: ir.Node) -> str:
    return node.name or str(node.outputs[0].name)
