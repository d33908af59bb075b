"""Elementwise arithmetic as polynomials, so that all orders of factors and terms are one spelling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from intaglio.passes.rewriting import scalar

Powers = tuple[int, ...]  # one exponent per symbol
Polynomial = dict[Powers, float]
DEPTH, HIGHEST = 8, 4


def polynomial(value: ir.Value | None, symbols: Sequence[ir.Value], depth: int = DEPTH) -> Polynomial | None:
    """`value` in powers of `symbols` with constant coefficients; `None` where it is no such polynomial."""
    if value is None or depth < 0:
        return None
    for index, symbol in enumerate(symbols):
        if value is symbol:
            return {_unit(len(symbols), index): 1.0}
    number = scalar(value)
    if number is not None:
        return {(0,) * len(symbols): number}
    node = value.producer()
    return None if node is None or node.domain else _of_node(node, symbols, depth - 1)


def is_close(found: Polynomial | None, expected: Mapping[Powers, float], tolerance: float = 1e-4) -> bool:
    """Whether the coefficients agree, relative to their own size."""
    if found is None:
        return False
    kept = {powers: one for powers, one in found.items() if one != 0.0}
    return kept.keys() == expected.keys() and all(
        math.isclose(kept[powers], one, rel_tol=tolerance) for powers, one in expected.items()
    )


def operands(value: ir.Value, depth: int = 3) -> list[ir.Value]:
    """What elementwise arithmetic makes `value` of, nearest first: what a polynomial may be in."""
    found, level = [value], [value]
    for _ in range(depth):
        nodes = [node for one in level if (node := one.producer()) is not None]
        level = [one for node in nodes if _is_arithmetic(node) for one in node.inputs if one is not None]
        found += level
    return list(dict.fromkeys(one for one in found if scalar(one) is None))


def _is_arithmetic(node: ir.Node) -> bool:
    return not node.domain and node.op_type in ("Add", "Sub", "Mul", "Div", "Neg", "Pow")


def _of_node(node: ir.Node, symbols: Sequence[ir.Value], depth: int) -> Polynomial | None:
    if not _is_arithmetic(node):
        return None
    parts = [polynomial(one, symbols, depth) for one in node.inputs]
    if node.op_type == "Pow":
        return _power(parts[0], scalar(node.inputs[1]))
    if node.op_type == "Div":
        divisor = scalar(node.inputs[1])
        return None if not divisor or parts[0] is None else _scaled(parts[0], 1.0 / divisor)
    known = [one for one in parts if one is not None]
    if len(known) < len(parts):
        return None
    if node.op_type == "Neg":
        return _scaled(known[0], -1.0)
    if node.op_type == "Mul":
        return _product(*known)
    return _sum(known[0], _scaled(known[1], -1.0) if node.op_type == "Sub" else known[1])


def _unit(count: int, place: int) -> Powers:
    return tuple(int(index == place) for index in range(count))


def _scaled(one: Polynomial, factor: float) -> Polynomial:
    return {powers: number * factor for powers, number in one.items()}


def _sum(one: Polynomial, other: Polynomial) -> Polynomial:
    return {powers: one.get(powers, 0.0) + other.get(powers, 0.0) for powers in {**one, **other}}


def _product(one: Polynomial, other: Polynomial) -> Polynomial:
    result: Polynomial = {}
    for left, first in one.items():
        for right, second in other.items():
            powers = tuple(a + b for a, b in zip(left, right, strict=True))
            result[powers] = result.get(powers, 0.0) + first * second
    return result


def _power(base: Polynomial | None, exponent: float | None) -> Polynomial | None:
    if base is None or exponent is None or exponent != int(exponent) or not 1 <= exponent <= HIGHEST:
        return None
    result = base
    for _ in range(int(exponent) - 1):
        result = _product(result, base)
    return result
