"""Rotary embedding as exporters spell it out.

Each reader returns what it found, or `None` where nothing is near.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.passes.normalize.rotary_pairs import halves, neighbours, stacked_pairs
from intaglio.passes.rewriting import is_op, made_by, sizes


@dataclass(frozen=True)
class Rotation:
    """`x` rotated by angles whose cosines and sines are computed."""

    input: ir.Value
    cosine: ir.Value
    sine: ir.Value
    halved: bool  # cosine and sine are as wide as `x`, both halves (or pairs) being equal
    interleaved: bool
    last: ir.Node


def rotations(node: ir.Node) -> Iterator[Rotation]:
    """The rotation that `node` is the last step of, if it is one."""
    if is_op(node, "Add"):
        yield from _by_rotated_half(node)
    elif is_op(node, "Concat") and len(node.inputs) == 2 and _is_last_axis(node):
        yield from _by_parts(node, node.inputs[0], node.inputs[1], halves)
    elif is_op(node, "Reshape"):
        stacked = stacked_pairs(node.outputs[0])
        if stacked is not None:
            yield from _by_parts(node, *stacked, neighbours)


def _by_rotated_half(add: ir.Node) -> Iterator[Rotation]:
    """`x · cos + turned(x) · sin`, in any order; `turned` negates the second of each pair and swaps them."""
    factors = [_factors(one) for one in add.inputs]
    for first, second in (factors, factors[::-1]):
        for turned, sine in second:
            source = _turned(turned)
            if source is None:
                continue
            for x, cosine in first:
                if x is source[0]:
                    yield Rotation(x, cosine, sine, True, source[1], add)
                    return


def _by_parts(
    last: ir.Node,
    first: ir.Value | None,
    second: ir.Value | None,
    whole: Callable[[ir.Value | None, ir.Value | None], ir.Value | None],
) -> Iterator[Rotation]:
    """`x₁ · cos - x₂ · sin` and `x₂ · cos + x₁ · sin`, joined again by `last`."""
    difference, total = made_by(first, "Sub"), made_by(second, "Add")
    if difference is None or total is None:
        return
    terms = [_factors(one) for one in (*difference.inputs, *total.inputs)]
    for (x1, cosine), (x2, sine) in _pairs(terms[0], terms[1]):
        crossed = {(x2, cosine), (x1, sine)}
        found = any({one, other} == crossed for one, other in _pairs(terms[2], terms[3]))
        source = whole(x1, x2)
        if found and source is not None:
            yield Rotation(source, cosine, sine, False, whole is neighbours, last)
            return


Factors = list[tuple[ir.Value, ir.Value]]


def _pairs(
    first: Factors, second: Factors
) -> Iterator[tuple[tuple[ir.Value, ir.Value], tuple[ir.Value, ir.Value]]]:
    yield from ((one, other) for one in first for other in second)


def _factors(value: ir.Value | None) -> Factors:
    """Both ways to read a product."""
    product = made_by(value, "Mul")
    first, second = product.inputs if product is not None else (None, None)
    if first is None or second is None:
        return []
    return [(first, second), (second, first)]


def _turned(value: ir.Value) -> tuple[ir.Value, bool] | None:
    """`x` where `value` is made of `-x₂` and `x₁`; and whether its pairs are neighbours."""
    concat = made_by(value, "Concat")
    if concat is not None and len(concat.inputs) == 2 and _is_last_axis(concat):
        source = halves(concat.inputs[1], _negated(concat.inputs[0]))
        return None if source is None else (source, False)
    stacked = stacked_pairs(value)
    source = neighbours(stacked[1], _negated(stacked[0])) if stacked is not None else None
    return None if source is None else (source, True)


def _negated(value: ir.Value | None) -> ir.Value | None:
    negative = made_by(value, "Neg")
    return negative.inputs[0] if negative is not None else None


def _is_last_axis(concat: ir.Node) -> bool:
    shape = sizes(concat.outputs[0]) or sizes(concat.inputs[0])
    return concat.attributes["axis"].as_int() in (-1, 3 if shape is None else len(shape) - 1)
