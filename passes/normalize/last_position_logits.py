"""Logits for the last position only: all that generating a token needs."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from intaglio.compiler.ir.builder import GraphBuilder
from intaglio.passes.linears import find_linears
from intaglio.passes.result import Applied, Declined, PassResult
from intaglio.passes.rewriting import made_by

LAST, TO_THE_END, SEQUENCE_AXIS = -1, 2**63 - 1, 1


@dataclass(frozen=True)
class LastPositionLogits:
    """`logits = Linear(RMSNormalization(x))` → `Linear(RMSNormalization(Slice(x)))`: `[batch, 1, …]`.

    Exceptions:
    1. The output `logits` is not made by a linear layer: declined.
    2. No norm comes before that layer: its own input is cut.
    3. The norm has other readers: it is cut for them too, so the rewrite is declined.
    """

    name: str = "last_position_logits"

    def __call__(self, model: ir.Model) -> PassResult:
        """Cut before the head."""
        outputs = [one for one in model.graph.outputs if one.name == "logits"]
        head = next((one for one in find_linears(model) if one.output in outputs), None)
        if head is None:
            return self._declined(model, "no linear layer makes an output called logits")
        first = made_by(head.input, "RMSNormalization")
        if first is not None and len(first.outputs[0].uses()) > 1:
            return self._declined(model, f"{first.name} has other readers than {head.site}")
        _cut(model.graph, first or head.matmul, 0)
        for value in filter(None, (first.outputs[0] if first else None, head.output)):
            value.shape = _one_position(value.shape)
        return PassResult(model, (Applied(self.name, head.site, "logits of the last position"),))

    def _declined(self, model: ir.Model, reason: str) -> PassResult:
        return PassResult(model, declined=(Declined(self.name, "logits", reason),))


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
