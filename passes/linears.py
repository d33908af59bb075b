"""The linear layers of a graph, `MatMul(x, Transpose(W))`: the sites of a plan."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from intaglio.compiler.ir.functions import DOMAIN
from intaglio.passes.rewriting import is_op, made_by, site_of
from intaglio.passes.weights import Weight, read_weight


@dataclass(frozen=True)
class Linear:
    """`y = x · Wᵀ`, with or without rounded activations."""

    matmul: ir.Node
    transpose: ir.Node
    weight: Weight

    @property
    def site(self) -> str:
        """The layer's name, such as `layers.3.mlp.down_proj`."""
        return site_of(self.matmul)

    @property
    def quantize(self) -> ir.Node | None:
        """The node that rounds the activations, if any."""
        return made_by(self.matmul.inputs[0], "QuantizeActivation", domain=DOMAIN)

    @property
    def input(self) -> ir.Value:
        """The activations before any rounding, `[batch, sequence, K]`."""
        value = (self.quantize or self.matmul).inputs[0]
        assert value is not None
        return value

    @property
    def output(self) -> ir.Value:
        """The product, `[batch, sequence, N]`."""
        return self.matmul.outputs[0]


def find_linears(model: ir.Model) -> list[Linear]:
    """All linear layers of the main graph, in its order."""
    found = (read_linear(node) for node in model.graph)
    return [one for one in found if one is not None]


def read_linear(node: ir.Node) -> Linear | None:
    """The linear layer that `node` is the product of, if it is one."""
    transpose = made_by(node.inputs[1], "Transpose") if is_op(node, "MatMul") else None
    if transpose is None or tuple(transpose.attributes.get_ints("perm", (1, 0))) != (1, 0):
        return None
    weight = read_weight(transpose.inputs[0])
    return Linear(node, transpose, weight) if weight is not None else None
