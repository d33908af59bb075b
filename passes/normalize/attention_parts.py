"""Attention as exporters spell it out: scaled scores, masks, probabilities, values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.passes.normalize.attention_scores import Scores, factor_of, scores_before
from intaglio.passes.normalize.permutations import permutation
from intaglio.passes.normalize.repeated_heads import unexpanded
from intaglio.passes.rewriting import is_op, made_by, rank, sizes

RANK = 4
AS_IT_IS = (0, 1, 2, 3)
LAST_TWO_SWAPPED = (0, 1, 3, 2)


@dataclass(frozen=True)
class Heads:
    """Queries, keys or values: `source` with axes in this order is `[batch, heads, sequence, head_dim]`."""

    source: ir.Value
    order: tuple[int, ...] = AS_IT_IS


@dataclass(frozen=True)
class SpelledOut:
    """`Softmax(scores) · V`."""

    query: Heads
    key: Heads
    value: Heads
    scores: Scores
    scale: float
    result: ir.Node  # the product with V
    flat: bool  # the result is [batch · heads, sequence, head_dim]


def spelled_out(softmax: ir.Node) -> SpelledOut | str | None:
    """The attention around `softmax`; `None` where nothing is near, a string where something is."""
    scores = scores_before(softmax.inputs[0])
    result = _product_with_values(softmax)
    if scores is None or result is None:
        return None
    if isinstance(scores, str) or isinstance(result, str):
        return scores if isinstance(scores, str) else str(result)
    axis = softmax.attributes.get_int("axis", -1)
    if axis != -1 and axis + 1 != (rank(softmax.inputs[0]) or rank(softmax.outputs[0])):
        return "the softmax is not along the last axis"
    assert scores.product is not None, "scores end at a product"
    query, by_query = _unscaled(_heads, scores.product.inputs[0])
    key, by_key = _unscaled(_turned_keys, scores.product.inputs[1])
    value = _heads(result.inputs[1])
    if query is None or key is None or value is None:
        return "queries, keys or values are not known to be [batch, heads, sequence, head_dim]"
    heads = [query, key, value]
    flat = rank(scores.product.inputs[0]) == RANK - 1
    problem = _pair_up(heads)
    if problem is not None:
        return problem
    scale = scores.scale * by_query * by_key
    return SpelledOut(heads[0], heads[1], heads[2], scores, scale, result, flat)


def _product_with_values(softmax: ir.Node) -> ir.Node | str | None:
    """The product that reads the probabilities; `None` if there is none."""
    value = softmax.outputs[0]
    for _ in range(4):
        readers = value.consumers()
        products = [one for one in readers if is_op(one, "MatMul") and one.inputs[0] is value]
        if products and (len(value.uses()) > 1 or value.is_graph_output()):
            return f"the probabilities have {len(value.uses())} readers; attention has one, the values"
        if products:
            return products[0]
        if len(readers) != 1 or readers[0].op_type not in ("Cast", "Reshape", "Identity"):
            return None
        value = readers[0].outputs[0]
    return None


def _unscaled(
    read: Callable[[ir.Value | None], Heads | None], value: ir.Value | None
) -> tuple[Heads | None, float]:
    """Heads before they were multiplied with constant numbers, and the product of those."""
    outer, before = _factor(value)
    heads = read(outer)
    if heads is None:
        return None, before
    source, after = _factor(heads.source)
    assert source is not None, "a value with a factor has something that it is a multiple of"
    return Heads(source, heads.order), before * after


def _factor(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    total = 1.0
    while value is not None and (node := value.producer()) is not None:
        factor = factor_of(node) if not node.domain else None
        if factor is None:
            break
        value, total = factor[0], total * factor[1]
    return value, total


def _heads(value: ir.Value | None) -> Heads | None:
    """Heads of a value of four axes, or of one with batch and heads joined."""
    if value is None:
        return None
    if rank(value) == RANK:
        return Heads(value)
    source = _before_joining(value)
    return Heads(source) if source is not None else None


def _before_joining(value: ir.Value) -> ir.Value | None:
    """`[batch, heads, …]` where `value` is the same as `[batch · heads, …]`."""
    reshape = made_by(value, "Reshape")
    before, after = sizes(reshape.inputs[0] if reshape is not None else None), sizes(value)
    if reshape is None or before is None or after is None or len(before) != RANK or len(after) != RANK - 1:
        return None
    return reshape.inputs[0] if None not in after[1:] and before[2:] == after[1:] else None


def _turned_keys(value: ir.Value | None) -> Heads | None:
    """Keys where `value` is `[batch, heads, head_dim, sequence]`, or that with batch and heads joined."""
    if value is None:
        return None
    joined = made_by(value, "Transpose") if rank(value) == RANK - 1 else None
    if joined is not None:
        swapped = permutation(joined) == [0, 2, 1]
        return _heads(joined.inputs[0]) if swapped else None
    heads = _heads(value)
    if heads is None:
        return None
    transpose = made_by(heads.source, "Transpose")
    order = permutation(transpose) if transpose is not None else None
    if transpose is None or order is None or transpose.inputs[0] is None:
        return Heads(heads.source, LAST_TWO_SWAPPED)
    return Heads(transpose.inputs[0], tuple(order[axis] for axis in LAST_TWO_SWAPPED))


def _pair_up(heads: list[Heads]) -> str | None:
    """Let keys and values be those before their heads were repeated; why that cannot be."""
    before = [unexpanded(one.source) for one in heads[1:]]
    problems = [one for one in before if isinstance(one, str)]
    if problems:
        return "; ".join(problems)
    repeated = [one is not heads[place].source for place, one in enumerate(before, start=1)]
    if all(repeated):
        for place, one in enumerate(before, start=1):
            assert isinstance(one, ir.Value), "strings were returned above"
            heads[place] = Heads(one, heads[place].order)
    elif any(repeated):
        return "only one of key and value has repeated heads"
    return None
