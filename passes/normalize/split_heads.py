"""`Attention` over joined heads, as one over heads of their own."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from intaglio.passes.normalize.contrib.writer import Writer
from intaglio.passes.result import Applied, PassResult
from intaglio.passes.rewriting import input_at, is_op, remove_unused, site_of

COUNTS = ("q_num_heads", "kv_num_heads")
PAST = (4, 5)


@dataclass(frozen=True)
class SplitHeads:
    """`Attention([batch, sequence, heads · head_dim], …; q_num_heads)` → `Attention` over four axes.

    Exceptions:
    1. It has past keys and values, whose new ones it returns: it stays.
    2. Other outputs than the first are read: it stays.
    """

    name: str = "split_heads"

    def __call__(self, model: ir.Model) -> PassResult:
        """Rewrite every such attention."""
        found = [node for node in model.graph if _is_joined(node)]
        sites = [site_of(node) for node in found]
        for node in found:
            _split(model.graph, node)
        remove_unused(model)
        return PassResult(model, tuple(Applied(self.name, one, "heads of their own") for one in sites))


def _is_joined(node: ir.Node) -> bool:
    if not is_op(node, "Attention") or not all(name in node.attributes for name in COUNTS):
        return False
    read = any(one.uses() or one.is_graph_output() for one in node.outputs[1:])
    return not read and not any(input_at(node, place) is not None for place in PAST)


def _split(graph: ir.Graph, node: ir.Node) -> None:
    writer = Writer(graph, node)
    queries, groups = (writer.integer(name) for name in COUNTS)
    heads = [
        writer.split_heads(writer.required(place), count)
        for place, count in enumerate((queries, groups, groups))
    ]
    mixed = writer.op("Attention", [*heads, *node.inputs[3:]])
    attention = mixed.producer()
    assert attention is not None, "just written"
    kept = {name: one for name, one in node.attributes.items() if name not in COUNTS}
    attention.attributes.update(kept)
    attention.metadata_props.update(node.metadata_props)
    writer.finish(writer.join_heads(mixed))
