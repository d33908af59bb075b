"""From a traced graph to the canonical decoder of docs/architecture.md."""

from __future__ import annotations

import onnx_ir as ir

from intaglio.passes.normalize.cut_rotary_tables import CutRotaryTables
from intaglio.passes.normalize.fold_constants import FoldConstants
from intaglio.passes.normalize.last_position_logits import LastPositionLogits
from intaglio.passes.normalize.merge_projections import MergeProjections
from intaglio.passes.normalize.recognize_attention import RecognizeAttention
from intaglio.passes.normalize.recognize_swiglu import RecognizeSwiglu
from intaglio.passes.normalize.static_kv_cache import StaticKvCache
from intaglio.passes.result import Pass, PassResult, run_passes

__all__ = ["normalize", "normalizing_passes"]


def normalize(model: ir.Model, *, layers: int, capacity: int, last_position_only: bool = False) -> PassResult:
    """Bring a decoder of `layers` layers into canonical form, with a cache of `capacity` tokens.

    What the architecture promises and the graph does not show is in the result's `declined`.
    """
    return run_passes(model, normalizing_passes(layers, capacity, last_position_only))


def normalizing_passes(layers: int, capacity: int, last_position_only: bool) -> tuple[Pass, ...]:
    """The passes of `normalize`, in order."""
    return (
        FoldConstants(),
        RecognizeAttention(expected=layers),
        RecognizeSwiglu(expected=layers),
        MergeProjections(expected=2 * layers),
        StaticKvCache(capacity, expected=layers),
        CutRotaryTables(capacity),
        *((LastPositionLogits(),) if last_position_only else ()),
    )
