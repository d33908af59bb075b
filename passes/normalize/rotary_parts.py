"""Rotary embedding as exporters spell it out.

Each reader returns what it found, or `None` where nothing is near.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.passes.rewriting import integers, is_op, made_by, sizes


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
    elif is_op(node, "Concat"):
        yield from _by_halves(node)


def _by_rotated_half(add: ir.Node) -> Iterator[Rotation]:
    """`x · cos + Concat(-x₂, x₁) · sin`, in any order."""
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


def _by_halves(concat: ir.Node) -> Iterator[Rotation]:
    """`Concat(x₁ · cos - x₂ · sin, x₂ · cos + x₁ · sin)` along the last axis."""
    if len(concat.inputs) != 2 or not _is_last_axis(concat):
        return
    difference, total = made_by(concat.inputs[0], "Sub"), made_by(concat.inputs[1], "Add")
    if difference is None or total is None:
        return
    terms = [_factors(one) for one in (*difference.inputs, *total.inputs)]
    for (x1, cosine), (x2, sine) in _pairs(terms[0], terms[1]):
        crossed = {(x2, cosine), (x1, sine)}
        found = any({one, other} == crossed for one, other in _pairs(terms[2], terms[3]))
        source = _halves(x1, x2)
        if found and source is not None:
            yield Rotation(source, cosine, sine, False, False, concat)
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
    """`x` where `value` is `Concat(-x₂, x₁)`; and whether its pairs are neighbours."""
    concat = made_by(value, "Concat")
    if concat is not None and len(concat.inputs) == 2 and _is_last_axis(concat):
        negative = made_by(concat.inputs[0], "Neg")
        second = negative.inputs[0] if negative is not None else None
        source = _halves(concat.inputs[1], second)
        return None if source is None else (source, False)
    return None


def _halves(first: ir.Value | None, second: ir.Value | None) -> ir.Value | None:
    """The value that is split into these equal halves of its last axis."""
    split = made_by(first, "Split")
    if split is None or first is None or second is None or second.producer() is not split:
        return None
    if tuple(split.outputs) != (first, second) or split.inputs[0] is None:
        return None
    shape = sizes(split.inputs[0])
    last = shape is not None and split.attributes.get_int("axis", 0) in (-1, len(shape) - 1)
    parts = integers(split.inputs[1]) if len(split.inputs) > 1 else [1, 1]
    return split.inputs[0] if last and parts is not None and len(set(parts)) == 1 else None


def _is_last_axis(concat: ir.Node) -> bool:
    shape = sizes(concat.outputs[0]) or sizes(concat.inputs[0])
    return concat.attributes["axis"].as_int() in (-1, 3 if shape is None else len(shape) - 1)
