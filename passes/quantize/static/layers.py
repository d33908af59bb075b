"""The layers of a graph that static 8-bit arithmetic can compute: convolutions and linear layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from intaglio.passes.linears import read_linear
from intaglio.passes.quantize.static.fold_channels import weight_of
from intaglio.passes.rewriting import constant, input_at, is_op, site_of

LARGEST_BIAS = 1 << 20


@dataclass(frozen=True)
class Layer:
    """A convolution with constant float32 weights, or a linear layer with stored ones."""

    node: ir.Node
    kind: Literal["convolution", "linear"]

    @property
    def site(self) -> str:
        """Its name in plans."""
        return site_of(self.node)

    @property
    def input(self) -> ir.Value:
        """The activations it reads."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def output(self) -> ir.Value:
        """Its result."""
        return self.node.outputs[0]


def find_layers(model: ir.Model) -> list[Layer]:
    """All such layers of the main graph, in its order."""
    found = (read_layer(node) for node in model.graph)
    return [one for one in found if one is not None]


def read_layer(node: ir.Node) -> Layer | None:
    """The layer that `node` is, if it is one."""
    if is_op(node, "Conv"):
        return Layer(node, "convolution") if weight_of(node) is not None and _bias_is_known(node) else None
    return Layer(node, "linear") if read_linear(node) is not None else None


def _bias_is_known(node: ir.Node) -> bool:
    bias = input_at(node, 2)
    return bias is None or constant(bias, LARGEST_BIAS) is not None
