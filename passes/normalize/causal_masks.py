"""Masks that let a token attend to itself and to earlier ones."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.passes.normalize.attention_scores import NO_WEIGHT
from intaglio.passes.normalize.positions import base_of
from intaglio.passes.rewriting import constant, input_at, is_op, made_by, scalar, sizes

MOVING = ("Unsqueeze", "Squeeze", "Expand", "Identity", "Cast")


def is_causal_constant(array: NDArray[np.generic]) -> bool:
    """Whether a boolean (`True`: attend) or added mask of one square is the causal one."""
    if array.ndim < 2 or array.shape[-1] != array.shape[-2] or array.size != array.shape[-1] ** 2:
        return False
    square = array.reshape(array.shape[-2:]).astype(np.float64)
    allowed = square == (1 if array.dtype == np.bool_ else 0)
    if not np.array_equal(allowed, np.tri(len(square), dtype=np.bool_)):
        return False
    return array.dtype == np.bool_ or bool(np.all(square[~allowed] <= NO_WEIGHT))


def is_computed_causal(value: ir.Value) -> bool:
    """Whether a boolean is computed as `key ≤ query` over positions, or as a lower triangle of ones."""
    node = _source(value)
    if node is None:
        return False
    if is_op(node, "Not"):
        return _is_strictly_later(node.inputs[0])
    if is_op(node, "Trilu"):
        return _is_triangle(node, upper=0, diagonal=0)
    return _compares(node, later=False)


def is_causal_triangle(value: ir.Value) -> bool:
    """Whether an added mask is very low above the diagonal and 0 elsewhere, by a `Trilu`."""
    node = _source(value)
    if node is None or not is_op(node, "Trilu"):
        return False
    number = _filling(node.inputs[0])
    above = node.attributes.get_int("upper", 1) == 1 and _diagonal(node) == 1
    return above and number is not None and number <= NO_WEIGHT


def _is_strictly_later(value: ir.Value | None) -> bool:
    """Whether a boolean is `key > query`."""
    node = _source(value) if value is not None else None
    if node is None:
        return False
    if is_op(node, "Trilu"):
        return _is_triangle(node, upper=1, diagonal=1)
    return _compares(node, later=True)


def _is_triangle(node: ir.Node, *, upper: int, diagonal: int) -> bool:
    """Whether a `Trilu` gives this triangle of ones."""
    same = node.attributes.get_int("upper", 1) == upper and _diagonal(node) == diagonal
    return same and _filling(node.inputs[0]) == 1.0


def _compares(node: ir.Node, *, later: bool) -> bool:
    """Whether `node` is `key ≤ query`, or `key > query`, however it is turned around."""
    if node.op_type not in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual") or node.domain:
        return False
    indices = [_index(one) for one in node.inputs]
    if None in indices or {one[0] for one in indices if one} != {"query", "key"}:
        return False
    (kind, left), (_, right) = (one for one in indices if one)
    # as a statement on d = key - query: d + bound OP 0
    bound = left - right if kind == "key" else right - left
    operator = node.op_type if kind == "key" else _TURNED[node.op_type]
    wanted = {True: ("Greater", 0), False: ("LessOrEqual", 0)}[later]
    inclusive = {"Less": ("LessOrEqual", 1), "GreaterOrEqual": ("Greater", 1)}.get(operator)
    if inclusive is not None:  # over integers, d < 0 is d + 1 ≤ 0, and d ≥ 0 is d + 1 > 0
        operator, bound = inclusive[0], bound + inclusive[1]
    return (operator, bound) == wanted


_TURNED = {
    "Less": "Greater",
    "Greater": "Less",
    "LessOrEqual": "GreaterOrEqual",
    "GreaterOrEqual": "LessOrEqual",
}


def _index(value: ir.Value | None) -> tuple[str, int] | None:
    """Whether `value` counts queries `[…, s, 1]` or keys `[…, 1, s]` or `[s]` from 0, and what is added."""
    shape = sizes(value)
    if value is None or not shape:
        return None
    found = _count(value)
    if found is None or (len(shape) > 1 and shape[-1] == 1 and shape[-2] == 1):
        return None
    if len(shape) > 1 and shape[-1] == 1:
        return "query", found
    return ("key", found) if len(shape) == 1 or shape[-2] == 1 else None


def _count(value: ir.Value) -> int | None:
    """`c` where `value` is a moved `c + 0, 1, …`."""
    value = base_of(value)
    counted = made_by(value, "Range")
    if counted is not None:
        from_zero = scalar(counted.inputs[0]) == 0 and scalar(counted.inputs[2]) == 1
        return 0 if from_zero else None
    total = made_by(value, "Add")
    for place in (0, 1) if total is not None else ():
        number = scalar(total.inputs[place]) if total is not None else None
        other = total.inputs[1 - place] if total is not None else None
        if number is not None and other is not None and number == int(number):
            inner = _count(other)
            return None if inner is None else inner + int(number)
    return None


def _source(value: ir.Value) -> ir.Node | None:
    node = value.producer()
    while node is not None and not node.domain and node.op_type in MOVING and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return None if node is None or node.domain else node


def _diagonal(node: ir.Node) -> int | None:
    given = input_at(node, 1)
    number = scalar(given)
    return 0 if given is None else None if number is None else int(number)


def _filling(value: ir.Value | None) -> float | None:
    """The number that all elements of `value` are."""
    filled = made_by(value, "ConstantOfShape")
    if filled is not None:
        tensor = filled.attributes.get("value")
        return 0.0 if tensor is None else float(tensor.as_tensor().numpy().reshape(-1)[0])
    spread = made_by(value, "Expand", "Cast")
    if spread is not None:
        return _filling(spread.inputs[0])
    array = constant(value)
    same = array is not None and array.size > 0 and bool(np.all(array == array.reshape(-1)[0]))
    return float(array.reshape(-1)[0]) if array is not None and same else None
