"""From a traced graph to the canonical decoder of docs/architecture.md."""

from __future__ import annotations

import onnx_ir as ir

from intaglio.passes.normalize.cut_rotary_tables import CutRotaryTables
from intaglio.passes.normalize.expected import Expected
from intaglio.passes.normalize.fold_constants import FoldConstants
from intaglio.passes.normalize.last_position_logits import LastPositionLogits
from intaglio.passes.normalize.merge_projections import MergeProjections
from intaglio.passes.normalize.recognize_attention import RecognizeAttention
from intaglio.passes.normalize.recognize_swiglu import RecognizeSwiglu
from intaglio.passes.normalize.static_kv_cache import StaticKvCache
from intaglio.passes.result import Pass, PassResult, run_passes

__all__ = ["Expected", "normalize", "normalizing_passes"]


def normalize(
    model: ir.Model, *, expected: Expected | None, capacity: int, last_position_only: bool = False
) -> PassResult:
    """Bring a decoder into canonical form, with a cache of `capacity` tokens.

    What the source promises and the graph does not show is in the result's `declined`.
    """
    return run_passes(model, normalizing_passes(expected or Expected(), capacity, last_position_only))


def normalizing_passes(expected: Expected, capacity: int, last_position_only: bool) -> tuple[Pass, ...]:
    """The passes of `normalize`, in order."""
    return (
        FoldConstants(),
        RecognizeAttention(expected=expected.attentions),
        RecognizeSwiglu(expected=expected.gated),
        MergeProjections(),
        StaticKvCache(capacity, expected=expected.attentions),
        CutRotaryTables(capacity),
        *((LastPositionLogits(),) if last_position_only else ()),
    )
