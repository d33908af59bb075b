"""`Gemm` over a quantised weight, as the linear layer that it is."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from intaglio.compiler.frontends.onnx.blocked_linear import stored_value, turned
from intaglio.compiler.ir.match import is_dequantized_weight
from intaglio.passes.result import Applied, Declined, PassResult
from intaglio.passes.rewriting import input_at, insert, is_op, remove_unused, site_of, supersede


@dataclass(frozen=True)
class CarryQuantizedGemm:
    """`Gemm(x, W[, b])` → `MatMul(x, Transpose(W))` `[+ b]`, `W` being dequantised in blocks.

    Exceptions:
    1. `Gemm` turns `x`, or scales the product or the bias: declined.
    Products with weights of floats are left to normalisation.
    """

    name: str = "carry_quantized_gemm"

    def __call__(self, model: ir.Model) -> PassResult:
        """Rewrite every such node of the main graph."""
        nodes = [node for node in model.graph if is_op(node, "Gemm") and _is_quantized(node)]
        accounts = [self._carry(node) for node in nodes]
        remove_unused(model)
        return PassResult.of(model, accounts)

    def _carry(self, node: ir.Node) -> Applied | Declined:
        site = site_of(node)
        if reason := _hindrance(node):
            return Declined(self.name, site, reason)
        weight = stored_value(node, 1)
        if node.attributes.get_int("transB", 0):
            weight = turned(node, weight, f"{node.name}.transposed")
        product = insert(node, "MatMul", [node.inputs[0], weight])
        if bias := input_at(node, 2):
            product.name = product.outputs[0].name = f"{node.name}.product"
            product.outputs[0].type, product.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
            product = insert(node, "Add", [product.outputs[0], bias])
        supersede(node, product)
        return Applied(self.name, site, "Gemm → MatMul(x, Transpose(W))")


def _is_quantized(node: ir.Node) -> bool:
    weight = is_dequantized_weight(node.inputs[1])
    return weight is not None and weight.block_size > 0


def _hindrance(node: ir.Node) -> str | None:
    if node.attributes.get_int("transA", 0):
        return "Gemm turns its first input (transA=1)"
    factors = {name: node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")}
    scaled = [f"{name}={factor}" for name, factor in factors.items() if factor != 1.0]
    return f"Gemm scales its parts: {', '.join(scaled)}" if scaled else None
