"""Logits for the last position only: all that generating a token needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.compiler.ir.builder import GraphBuilder
from intaglio.passes.linears import read_linear
from intaglio.passes.result import Applied, Declined, PassResult
from intaglio.passes.rewriting import constant, made_by, site_of

LAST, TO_THE_END, SEQUENCE_AXIS = -1, 2**63 - 1, 1
NORMS = ("RMSNormalization", "LayerNormalization")
AFTER_THE_HEAD = ("Add", "Sub", "Mul", "Div", "Tanh", "Cast", "Identity")


@dataclass(frozen=True)
class LastPositionLogits:
    """`logits = f(Linear(Norm(x)))` → `f(Linear(Norm(Slice(x))))`: `[batch, 1, …]`.

    `f` is elementwise, as biases, scales and soft-caps are; `Norm` is `RMSNormalization` or
    `LayerNormalization`.

    Exceptions:
    1. The output `logits` is not made by a linear layer and such an `f`: declined.
    2. No norm comes before that layer: its own input is cut.
    3. The norm, or something between the layer and the logits, has other readers: they would be cut, too, so
       the rewrite is declined.
    """

    name: str = "last_position_logits"

    def __call__(self, model: ir.Model) -> PassResult:
        """Cut before the head."""
        logits = next((one for one in model.graph.outputs if one.name == "logits"), None)
        chain = list(_back_to_head(logits)) if logits is not None else []
        head = read_linear(chain[-1]) if chain else None
        if head is None:
            return self._declined(model, "no linear layer makes an output called logits")
        norm = made_by(head.input, *NORMS)
        whole = [*([norm] if norm is not None else []), *reversed(chain)]
        for node in whole[:-1]:
            if len(node.outputs[0].uses()) > 1 or node.outputs[0].is_graph_output():
                return self._declined(model, f"{site_of(node)} has other readers than {head.site}")
        _cut(model.graph, whole[0], 0)
        for node in whole:
            node.outputs[0].shape = _one_position(node.outputs[0].shape)
        return PassResult(model, (Applied(self.name, head.site, "logits of the last position"),))

    def _declined(self, model: ir.Model, reason: str) -> PassResult:
        return PassResult(model, declined=(Declined(self.name, "logits", reason),))


def _back_to_head(logits: ir.Value) -> Iterator[ir.Node]:
    """The nodes that make `logits`, back to a product."""
    value: ir.Value | None = logits
    while (node := made_by(value, "MatMul", *AFTER_THE_HEAD)) is not None:
        yield node
        computed = [one for one in node.inputs if one is not None and constant(one, limit=1 << 24) is None]
        if node.op_type == "MatMul" or len(computed) != 1:
            return
        value = computed[0]


def _cut(graph: ir.Graph, node: ir.Node, place: int) -> None:
    """Let input `place` of `node` be its last position."""
    whole = node.inputs[place]
    assert whole is not None, "a required input of a standard op"
    builder = GraphBuilder.extend(graph, before=node)
    bounds = [builder.integers([one]) for one in (LAST, TO_THE_END, SEQUENCE_AXIS)]
    last = builder.node("Slice", [whole, *bounds], name="last_position")
    last.type, last.shape = whole.type, _one_position(whole.shape)
    node.replace_input_with(place, last)


def _one_position(shape: ir.Shape | None) -> ir.Shape | None:
    if shape is None:
        return None
    return ir.Shape([1 if axis == SEQUENCE_AXIS else size for axis, size in enumerate(shape)])
