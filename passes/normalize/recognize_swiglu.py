"""The gated activation of llama's feed-forward layers, by name."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from intaglio.compiler.ir.functions import DOMAIN, ensure_function, swiglu
from intaglio.passes.result import Applied, Declined, PassResult, shortfall
from intaglio.passes.rewriting import count, insert, is_op, made_by, remove_unused, site_of, supersede

Halves = tuple[ir.Value, ir.Value]


@dataclass(frozen=True)
class RecognizeSwiglu:
    """`Mul(Mul(g, Sigmoid(g)), u)` → `intaglio.SwiGLU(g, u)`.

    Both products may have their operands in either order; `Swish(g)` may stand for the inner one.

    Exceptions:
    1. The sigmoid is of another value than it is multiplied with: declined.
    2. The activated gate is multiplied with nothing, or with itself: declined.
    3. The activated gate is used elsewhere too: rewritten, and the inner product stays for the others.
    With `expected`, fewer `SwiGLU` than that after the pass are declined.
    """

    expected: int | None = None
    name: str = "recognize_swiglu"

    def __call__(self, model: ir.Model) -> PassResult:
        """Rewrite every gate found."""
        accounts = [one for node in list(model.graph) for one in self._from_gate(node)]
        remove_unused(model)
        found = count(model, "SwiGLU", DOMAIN)
        if found:
            ensure_function(model, swiglu())
        return PassResult.of(model, [*shortfall(self.name, self.expected, found, "SwiGLU"), *accounts])

    def _from_gate(self, node: ir.Node) -> list[Applied | Declined]:
        gate = _activated_gate(node)
        if gate is None:
            return []
        if isinstance(gate, str):
            return [Declined(self.name, site_of(node), gate)]
        if products := _products(node, gate):
            return [Applied(self.name, site_of(one), "SwiGLU") for one in products]
        reason = f"{node.outputs[0].name} is SiLU, but no product with a second value follows"
        return [Declined(self.name, site_of(node), reason)]


def _activated_gate(node: ir.Node) -> ir.Value | str | None:
    """`g` where `node` is `g · sigmoid(g)`; why not where it nearly is."""
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
    """Replace every `inner · u` by SwiGLU, and return those nodes."""
    activated = inner.outputs[0]
    rewritten = []
    for product in [one for one in activated.consumers() if is_op(one, "Mul")]:
        others = [one for one in product.inputs if one is not activated]
        if len(others) != 1:
            continue  # exception 2: the gate times itself
        node = insert(product, "SwiGLU", [gate, others[0]], domain=DOMAIN)
        supersede(product, node)
        rewritten.append(node)
    return rewritten


def _name(value: ir.Value | None) -> str:
    return (value.name if value is not None else None) or "a value without a name"
