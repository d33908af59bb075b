"""What a reduction starts with, how two values become one, and how 16 lanes do."""

from __future__ import annotations

from intaglio.kernels import tir
from intaglio.kernels.tir import LANES, Expression, tirx


def start(op: str) -> float:
    """The value that changes nothing."""
    return {"max": -float("inf"), "min": float("inf"), "product": 1.0}.get(op, 0.0)


def joined(op: str, total: Expression, value: Expression) -> Expression:
    """One more value (of "…_squares": one more square)."""
    if op == "max":
        return tirx.Max(total, value)
    if op == "min":
        return tirx.Min(total, value)
    return total * value if op == "product" else total + value


def across(op: str, vector: Expression) -> Expression:
    """The lanes of a vector as a scalar, halves first."""
    lanes = LANES // 2
    while lanes:
        low, high = (
            tirx.Shuffle([vector], [tir.int32(first + lane) for lane in range(lanes)]) for first in (0, lanes)
        )
        vector = tir.hold(joined(op, low, high))
        lanes //= 2
    return vector


def finished(op: str, total: Expression, count: int, lanes: int) -> Expression:
    """Means are sums times the inverse of how many there are."""
    if not op.startswith("mean"):
        return total
    return total * tir.spread(tir.float32(1.0 / count), lanes)
