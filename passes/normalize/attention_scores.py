"""Scores of attention before the softmax: the product of queries and keys, and what was done to it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import onnx_ir as ir

from intaglio.passes.rewriting import input_at, is_op, made_by, scalar

# The largest score that a mask leaves: exp(-1e4) is 0 in float32, and 10000 is what BERT's authors took.
NO_WEIGHT = -1e4
STEPS = 24  # between product and softmax


@dataclass(frozen=True)
class Mask:
    """Something that takes scores away: added to them, or `True` where they are kept or dropped."""

    value: ir.Value
    kind: Literal["added", "kept", "dropped"]


@dataclass(frozen=True)
class Scores:
    """`softcap(scale · Q · Kᵀ)` with masks."""

    product: ir.Node | None = None
    scale: float = 1.0
    softcap: float = 0.0
    masks: tuple[Mask, ...] = field(default=())


def scores_before(value: ir.Value | None) -> Scores | str | None:
    """How `value`, which goes into a softmax, is made of a product; `None` where no product is near."""
    found = Scores()
    if value is None or not _leads_to_product(value):
        return None
    for _ in range(STEPS):
        node = value.producer() if value is not None else None
        if node is None or is_op(node, "MatMul"):
            return replace(found, product=node)
        step = _step(node, found)
        if isinstance(step, str):
            return step
        value, found = step
    return f"more than {STEPS} nodes lie between product and softmax"


Step = tuple[ir.Value | None, Scores]


def _step(node: ir.Node, found: Scores) -> Step | str:
    """What `node` was applied to, and what it did."""
    if node.op_type in ("Cast", "Reshape", "Identity", "Max"):
        return node.inputs[0], found
    if node.op_type in ("Mul", "Div"):
        return _scaling(node, found)
    if found.softcap and node.op_type in ("Add", "Where"):
        return "a mask is applied before the soft-cap"
    if node.op_type == "Add":
        return _added(node, found)
    return _chosen(node, found)


def _scaling(node: ir.Node, found: Scores) -> Step | str:
    factor = factor_of(node)
    if factor is None:
        return f"{node.op_type} {node.name} scales the scores by something computed"
    value, number = factor
    tanh = made_by(value, "Tanh")
    if tanh is None:
        return value, replace(found, scale=found.scale * number)
    if found.scale != 1.0 or found.softcap:
        return "the soft-capped scores are scaled once more"
    # limit · tanh(factor · QKᵀ) caps scores of the scale limit · factor
    return tanh.inputs[0], replace(found, scale=number, softcap=number)


def _added(node: ir.Node, found: Scores) -> Step | str:
    places = [place for place in (0, 1) if _leads_to_product(node.inputs[place])]
    mask = node.inputs[1 - places[0]]
    assert mask is not None, "a required input of a standard op"
    if found.scale != 1.0:
        return f"what {node.name} adds to the scores is scaled with them"
    return node.inputs[places[0]], replace(found, masks=(*found.masks, Mask(mask, "added")))


def _chosen(node: ir.Node, found: Scores) -> Step | str:
    condition, taken, other = node.inputs
    assert condition is not None, "a required input of a standard op"
    for value, fill, kind in ((taken, other, "kept"), (other, taken, "dropped")):
        number = scalar(fill)
        if number is None or not _leads_to_product(value):
            continue
        if number > NO_WEIGHT:
            return f"masked scores are {number}"
        mask = Mask(condition, "kept" if kind == "kept" else "dropped")
        return value, replace(found, masks=(*found.masks, mask))
    return f"Where {node.name} chooses between scores and something computed"


def factor_of(node: ir.Node) -> tuple[ir.Value | None, float] | None:
    """The value that a `Mul` or `Div` scales by a constant number, and that number."""
    if is_op(node, "Div"):
        divisor = scalar(node.inputs[1])
        return (node.inputs[0], 1.0 / divisor) if divisor else None
    for place in (0, 1) if is_op(node, "Mul") else ():
        number = scalar(node.inputs[place])
        if number is not None:
            return node.inputs[1 - place], number
    return None


def _leads_to_product(value: ir.Value | None, depth: int = STEPS) -> bool:
    node = value.producer() if value is not None else None
    if node is None or node.domain or depth == 0:
        return False
    if node.op_type == "MatMul":
        return True
    if node.op_type in ("Cast", "Reshape", "Identity", "Tanh"):
        return _leads_to_product(node.inputs[0], depth - 1)
    if node.op_type in ("Mul", "Div"):
        factor = factor_of(node)
        return factor is not None and _leads_to_product(factor[0], depth - 1)
    if node.op_type == "Max":
        number = scalar(input_at(node, 1))
        return number is not None and number <= NO_WEIGHT and _leads_to_product(node.inputs[0], depth - 1)
    places = {"Add": (0, 1), "Where": (1, 2)}.get(node.op_type, ())
    return any(_leads_to_product(node.inputs[place], depth - 1) for place in places)
