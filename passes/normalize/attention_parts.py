"""The parts of attention as exporters spell them out: causal masks, scaled scores, probabilities.

Each reader returns what it found, or a string that says why something near is not it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from intaglio.passes.normalize.repeated_heads import unexpanded
from intaglio.passes.rewriting import constant, is_op, made_by, scalar

LAST_AXIS = 3
NO_WEIGHT = -1e9  # a score this low leaves nothing after the softmax


@dataclass(frozen=True)
class SpelledOut:
    """`Softmax(scale · Q · Kᵀ [+ causal mask]) · V`, 4-D `[batch, heads, sequence, head_dim]`."""

    query: ir.Value
    key: ir.Value
    value: ir.Value
    scale: float
    causal: bool
    product: ir.Node  # makes the result


def is_causal_mask(value: ir.Value) -> bool | str:
    """Whether a boolean (`True`: attend) or additive mask is the causal one; why not."""
    array = constant(value, limit=1 << 26)
    if array is None:
        producer = value.producer()
        source = f"computed by {producer.op_type} {producer.name}" if producer is not None else "an input"
        return f"the mask {value.name} is {source}, not a constant"
    if array.ndim < 2 or array.shape[-1] != array.shape[-2] or array.size != array.shape[-1] ** 2:
        return f"the mask {value.name} has shape {list(array.shape)}, not one square"
    square = array.reshape(array.shape[-2:]).astype(np.float64)
    allowed = square == (1 if array.dtype == np.bool_ else 0)
    if not np.array_equal(allowed, np.tri(len(square), dtype=np.bool_)):
        return f"the mask {value.name} is not lower-triangular"
    if array.dtype != np.bool_ and np.any(square[~allowed] > NO_WEIGHT):
        return f"the mask {value.name} only lowers the scores of later tokens (to {square[~allowed].max()})"
    return True


def spelled_out(softmax: ir.Node) -> SpelledOut | str:
    """The attention around `softmax`."""
    if softmax.attributes.get_int("axis", -1) not in (-1, LAST_AXIS):
        return "the softmax is not along the last axis"
    masked = _masked_scores(softmax.inputs[0])
    if isinstance(masked, str):
        return masked
    scores, scale = _unscaled(masked[0])
    product = made_by(scores, "MatMul")
    if product is None:
        return "what goes into the softmax is not a (scaled, masked) product of queries and keys"
    query, query_scale = _unscaled(product.inputs[0])
    transpose = made_by(product.inputs[1], "Transpose")
    if transpose is None or tuple(transpose.attributes.get_ints("perm", ())) != (0, 1, 3, 2):
        return f"the second factor of {product.name} is not a transposed [batch, heads, sequence, head_dim]"
    key, key_scale = _unscaled(transpose.inputs[0])
    readers = softmax.outputs[0].consumers()
    if len(readers) != 1 or not is_op(readers[0], "MatMul") or readers[0].inputs[0] is not softmax.outputs[0]:
        return f"the softmax has {len(readers)} readers; attention multiplies it with the values once"
    key_source, value_source = _unexpanded_pair(key, readers[0].inputs[1])
    if isinstance(key_source, str) or isinstance(value_source, str) or query is None:
        return "; ".join(one for one in (key_source, value_source) if isinstance(one, str))
    total = scale * query_scale * key_scale
    return SpelledOut(query, key_source, value_source, total, masked[1], readers[0])


def _masked_scores(value: ir.Value | None) -> tuple[ir.Value | None, bool] | str:
    """Scores before the mask, and whether there was a causal one."""
    if (add := made_by(value, "Add")) is not None:
        computed = [one for one in add.inputs if one is not None and constant(one, limit=1 << 26) is None]
        fixed = [one for one in add.inputs if one is not None and one not in computed]
        if len(fixed) != 1:
            return f"{add.name} adds no constant mask to the scores"
        causal = is_causal_mask(fixed[0])
        return (computed[0], True) if causal is True else str(causal)
    if (where := made_by(value, "Where")) is not None and where.inputs[0] is not None:
        causal, fill = is_causal_mask(where.inputs[0]), scalar(where.inputs[2])
        if causal is not True:
            return str(causal)
        return (
            (where.inputs[1], True) if fill is not None and fill <= NO_WEIGHT else f"masked scores are {fill}"
        )
    return value, False


def _unscaled(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """A value before it was multiplied with a constant number, and that number."""
    if (divide := made_by(value, "Div")) is not None and (divisor := scalar(divide.inputs[1])):
        return divide.inputs[0], 1.0 / divisor
    multiply = made_by(value, "Mul")
    for index, one in enumerate(multiply.inputs if multiply is not None else ()):
        if multiply is not None and (factor := scalar(one)) is not None:
            return multiply.inputs[1 - index], factor
    return value, 1.0


def _unexpanded_pair(key: ir.Value | None, value: ir.Value | None) -> tuple[ir.Value | str, ir.Value | str]:
    assert key is not None, "a required input of a standard op"
    assert value is not None, "a required input of a standard op"
    key_source, value_source = unexpanded(key), unexpanded(value)
    if (key_source is key) != (value_source is value) and not isinstance(key_source, str):
        return "only one of key and value has repeated heads", value_source
    return key_source, value_source
