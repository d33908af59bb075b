"""The gated activations of feed-forward layers, by name: SwiGLU and GeGLU."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from intaglio.compiler.ir.functions import DOMAIN, ensure_function, geglu, swiglu
from intaglio.passes.result import Applied, Declined, PassResult, shortfall
from intaglio.passes.rewriting import (
    count,
    described,
    insert,
    is_op,
    made_by,
    remove_unused,
    scalar,
    site_of,
    sizes,
    supersede,
)

FUNCTIONS = {"SwiGLU": swiglu, "GeGLU": geglu}


@dataclass(frozen=True)
class RecognizeGated:
    """`g · sigmoid(g) · u` → `intaglio.SwiGLU(g, u)`;  `Gelu(g) · u` → `intaglio.GeGLU(g, u; approximate)`.

    Operands may stand in either order; `Swish(g)` may stand for `g · sigmoid(g)`.

    Exceptions:
    1. The sigmoid is of another value than it is multiplied with: declined.
    2. The activated gate is multiplied with nothing, itself, or a value of another shape: declined.
    3. The activated gate is used elsewhere too: rewritten, and its own nodes stay for the others.
    Near misses are told where `expected` says that there should be more; ungated activations are common.
    """

    expected: int | None = None
    name: str = "recognize_gated"

    def __call__(self, model: ir.Model) -> PassResult:
        """Rewrite every gate found."""
        accounts = [one for node in list(model.graph) for one in self._from_gate(node)]
        remove_unused(model)
        found = {name: count(model, name, DOMAIN) for name in FUNCTIONS}
        for name, function in FUNCTIONS.items():
            if found[name]:
                ensure_function(model, function())
        missing = shortfall(self.name, self.expected, sum(found.values()), "gated activations")
        told = accounts if missing else [one for one in accounts if isinstance(one, Applied)]
        return PassResult.of(model, [*missing, *told])

    def _from_gate(self, node: ir.Node) -> list[Applied | Declined]:
        gate = _activated_gate(node)
        if gate is None:
            return []
        if isinstance(gate, str):
            return [Declined(self.name, site_of(node), gate)]
        if products := _products(node, gate):
            return [Applied(self.name, site_of(one), one.op_type) for one in products]
        reason = f"{node.outputs[0].name} is activated, but no product with a second value follows"
        return [Declined(self.name, site_of(node), reason)]


def _activated_gate(node: ir.Node) -> ir.Value | str | None:
    """`g` where `node` is `Gelu(g)` or `g · sigmoid(g)`; why not where it nearly is."""
    if is_op(node, "Gelu"):
        return node.inputs[0]
    if is_op(node, "Swish"):
        alpha = node.attributes.get_float("alpha", 1.0)
        return node.inputs[0] if alpha == 1.0 else f"Swish has alpha {alpha}; only 1 is SiLU"
    if not is_op(node, "Mul"):
        return None
    sigmoids = [(one, made_by(one, "Sigmoid")) for one in node.inputs]
    for index, (_, sigmoid) in enumerate(sigmoids):
        if sigmoid is not None and sigmoid.inputs[0] is node.inputs[1 - index]:
            return sigmoid.inputs[0]
    for index, (_, sigmoid) in enumerate(sigmoids):
        if sigmoid is not None:
            gate, other = sigmoid.inputs[0], node.inputs[1 - index]
            return f"sigmoid of {_name(gate)} times {_name(other)}: SiLU needs the same value twice"
    return None


def _products(inner: ir.Node, gate: ir.Value) -> list[ir.Node]:
    """Replace every `inner · u` by a gated activation, and return those nodes."""
    activated = inner.outputs[0]
    rewritten = []
    for product in [one for one in activated.consumers() if is_op(one, "Mul")]:
        others = [one for one in product.inputs if one is not activated]
        if len(others) != 1 or not _has_same_shape(others[0], gate):
            continue  # exception 2
        node = _gated(product, inner, [gate, others[0]])
        described(product.outputs[0], node.outputs[0], sizes(product.outputs[0]))
        supersede(product, node)
        rewritten.append(node)
    return rewritten


def _gated(product: ir.Node, inner: ir.Node, inputs: list[ir.Value | None]) -> ir.Node:
    if not is_op(inner, "Gelu"):
        return insert(product, "SwiGLU", inputs, domain=DOMAIN)
    attributes = {"approximate": inner.attributes.get_string("approximate", "none")}
    return insert(product, "GeGLU", inputs, attributes, domain=DOMAIN)


def _has_same_shape(value: ir.Value | None, gate: ir.Value) -> bool:
    if scalar(value) is not None:
        return False
    one, other = sizes(value), sizes(gate)
    return one is None or other is None or one == other


def _name(value: ir.Value | None) -> str:
    return (value.name if value is not None else None) or "a value without a name"
