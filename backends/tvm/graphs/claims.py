"""What an emitter says of a node: the nodes that its stages compute, and how to append them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.backends.tvm.graphs.builder import TableBuilder
from intaglio.backends.tvm.graphs.views import View

Emit = Callable[[TableBuilder], None]
Views = Mapping[ir.Value, View]


@dataclass(frozen=True)
class Claim:
    """Stages for `nodes`, of which the last one's outputs are left in the table's views.

    What the claim was based on are the views of `reads`; until `emit` is called, nothing is appended.
    """

    kind: str  # of kernel, for people and for giving all of a kind back
    nodes: tuple[ir.Node, ...]
    emit: Emit
    reads: tuple[ir.Value, ...]

    @property
    def output(self) -> ir.Value:
        """What the last node computes."""
        return self.nodes[-1].outputs[0]
