"""Spellings of `HardSwish`, which mobile vision models are full of."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from intaglio.passes.result import Applied, PassResult
from intaglio.passes.rewriting import insert, made_by, remove_unused, scalar, supersede

CLOSE = 1e-5


@dataclass(frozen=True)
class RecognizeHardSwish:
    """These → `HardSwish(x)`, in which x · clip(x + 3, 0, 6) / 6 is meant:

        Div(Mul(x, Clip(Add(x, 3), 0, 6)), 6), Mul(Mul(x, Clip(…)), 1/6), Mul(x, Div(Clip(…), 6)),
        Mul(x, HardSigmoid(x; alpha=1/6, beta=1/2))

    Exceptions:
    1. A number differs by more than 1e-5 (some models use 0.2): nothing is done.
    2. What is in between may be used elsewhere as well; it stays for those.
    """

    name: str = "recognize_hard_swish"

    def __call__(self, model: ir.Model) -> PassResult:
        """Once through the graph."""
        applied = []
        for node in list(model.graph):
            found = None if node.domain else _hard_swish_of(node)
            if found is None:
                continue
            new = insert(node, "HardSwish", [found])
            supersede(node, new)
            applied.append(Applied(self.name, node.name or "", node.op_type))
        remove_unused(model)
        return PassResult(model, tuple(applied))


def _hard_swish_of(node: ir.Node) -> ir.Value | None:
    """The x of which `node` computes the hard swish."""
    divided = _sixth_of(node)
    if divided is not None:
        product = made_by(divided, "Mul")
        return None if product is None else _gated(product, _clipped)
    return _gated(node, _hard_sigmoid) if node.op_type == "Mul" else None


def _gated(product: ir.Node, gate: object) -> ir.Value | None:
    assert callable(gate)
    for x, other in (product.inputs, product.inputs[::-1]):
        if x is not None and gate(other) is x:
            return x
    return None


def _hard_sigmoid(value: ir.Value | None) -> ir.Value | None:
    """The x of clip(x + 3, 0, 6) / 6."""
    node = made_by(value, "HardSigmoid")
    if node is not None:
        alpha, beta = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
        return node.inputs[0] if abs(alpha - 1 / 6) < CLOSE and abs(beta - 0.5) < CLOSE else None
    producer = None if value is None else value.producer()
    divided = None if producer is None or producer.domain else _sixth_of(producer)
    return _clipped(divided)


def _clipped(value: ir.Value | None) -> ir.Value | None:
    """The x of clip(x + 3, 0, 6)."""
    clip = made_by(value, "Clip")
    if clip is None or len(clip.inputs) != 3 or not (_is(clip.inputs[1], 0) and _is(clip.inputs[2], 6)):
        return None
    add = made_by(clip.inputs[0], "Add")
    return add.inputs[0] if add is not None and _is(add.inputs[1], 3) else None


def _sixth_of(node: ir.Node) -> ir.Value | None:
    if node.op_type == "Div" and _is(node.inputs[1], 6):
        return node.inputs[0]
    return node.inputs[0] if node.op_type == "Mul" and _is(node.inputs[1], 1 / 6) else None


def _is(value: ir.Value | None, wanted: float) -> bool:
    found = scalar(value)
    return found is not None and abs(found - wanted) < CLOSE
