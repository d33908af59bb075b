"""What happens to scores before the softmax: soft-cap and mask."""

from __future__ import annotations

from intaglio.kernels import tir
from intaglio.kernels.attention.heads import Heads
from intaglio.kernels.tir import LANES, Expression, tirx

LOWEST = -1e30  # a score that no position has; −∞ would give NaN in differences

# tanh x = x · P(x²) / Q(x²) for |x| ≤ 8, by weighted least squares: relative error 7e-9, 4e-7 in float32.
_NUMERATOR = (0.9999999936, 0.1344451351, 3.5716163359e-3, 2.1894959851e-5, 1.52308305e-8)
_DENOMINATOR = (1.0, 0.4677784085, 2.61645129304e-2, 3.411321786869e-4, 8.522615027e-7)


def hyperbolic_tangent(value: Expression) -> Expression:
    """Tanh of a float32 vector, to 4e-7 relative; tanh 8 is 1 in float32."""
    limit = tir.spread(tir.float32(8.0))
    x = tir.bind(tirx.Max(tirx.Min(value, limit), tir.zeros() - limit))
    square = tir.bind(x * x)
    return x * _polynomial(square, _NUMERATOR) / _polynomial(square, _DENOMINATOR)


def _polynomial(x: Expression, coefficients: tuple[float, ...]) -> Expression:
    result = tir.spread(tir.float32(coefficients[-1]))
    for coefficient in reversed(coefficients[:-1]):
        result = tir.fused_multiply_add(result, x, tir.spread(tir.float32(coefficient)))
    return result


def masked(heads: Heads, scores: Expression, first: Expression, position: Expression) -> Expression:
    """Scores of positions `first …` seen from `position`: capped, and `LOWEST` where out of sight."""
    if heads.softcap > 0:
        inverse = tir.spread(tir.float32(1.0 / heads.softcap))
        scores = hyperbolic_tangent(scores * inverse) * tir.spread(tir.float32(heads.softcap))
    lowest = tir.spread(tir.float32(LOWEST))
    positions = tirx.Ramp(first, tir.int32(1), LANES)
    if heads.window >= 0:
        start = tir.spread(position - tir.int32(heads.window))
        scores = tirx.Select(positions >= start, scores, lowest)
    return tirx.Select(positions <= tir.spread(position), scores, lowest)


def first_visible(heads: Heads, position: Expression) -> Expression:
    """The first position that `position` sees."""
    return tirx.Max(position - tir.int32(heads.window), tir.int32(0)) if heads.window >= 0 else tir.int32(0)


def out_of_sight(heads: Heads, visible: Expression, first: Expression) -> Expression:
    """Positions from `first` on that lie before `visible`, the first visible one."""
    return tirx.Max(visible - first, tir.int32(0)) if heads.window >= 0 else tir.int32(0)
