"""What happens to scores before the softmax: soft-cap and mask."""

from __future__ import annotations

from intaglio.kernels import tir
from intaglio.kernels.attention.heads import Heads
from intaglio.kernels.elementary import hyperbolic_tangent
from intaglio.kernels.tir import LANES, Expression, tirx

LOWEST = -1e30  # a score that no position has; −∞ would give NaN in differences


def masked(heads: Heads, scores: Expression, first: Expression, position: Expression) -> Expression:
    """Scores of positions `first …` seen from `position`: capped, and `LOWEST` where out of sight."""
    return hidden(heads, capped(heads, scores), first, position)


def capped(heads: Heads, scores: Expression) -> Expression:
    """Scores with a soft cap, if there is one."""
    if heads.softcap <= 0:
        return scores
    inverse = tir.spread(tir.float32(1.0 / heads.softcap))
    return hyperbolic_tangent(scores * inverse) * tir.spread(tir.float32(heads.softcap))


def hidden(heads: Heads, scores: Expression, first: Expression, position: Expression) -> Expression:
    """Scores of positions `first …` seen from `position`: `LOWEST` where out of sight."""
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
