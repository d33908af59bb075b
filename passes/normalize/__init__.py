"""From a traced graph to the canonical decoder, or the canonical ops, of docs/architecture.md."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from intaglio.compiler.ir.rules import ATTENTION_KEPT, OPSET_KEPT, QUANTIZATION_KEPT
from intaglio.passes.normalize.clean_up import CleanUp
from intaglio.passes.normalize.contrib import LowerContrib
from intaglio.passes.normalize.cut_rotary_tables import CutRotaryTables
from intaglio.passes.normalize.expected import Expected
from intaglio.passes.normalize.fold_constants import FoldConstants
from intaglio.passes.normalize.fold_vectors import FoldVectors
from intaglio.passes.normalize.infer_shapes import InferShapes
from intaglio.passes.normalize.last_position_logits import LastPositionLogits
from intaglio.passes.normalize.lift_rows import LiftRows
from intaglio.passes.normalize.merge_projections import MergeProjections
from intaglio.passes.normalize.recognize_attention import RecognizeAttention
from intaglio.passes.normalize.recognize_gated import RecognizeGated
from intaglio.passes.normalize.recognize_gelu import RecognizeGelu
from intaglio.passes.normalize.recognize_linears import RecognizeLinears
from intaglio.passes.normalize.recognize_norms import RecognizeNorms
from intaglio.passes.normalize.recognize_rotary import RecognizeRotary
from intaglio.passes.normalize.split_heads import SplitHeads
from intaglio.passes.normalize.split_sequences import SplitSequences
from intaglio.passes.normalize.split_slices import SplitSlices
from intaglio.passes.normalize.static_kv_cache import StaticKvCache
from intaglio.passes.result import Declined, Pass, PassResult, run_passes

__all__ = ["Expected", "graph_passes", "normalize", "normalize_graph", "normalizing_passes"]


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
        *_cleaning(),
        RecognizeNorms(expected=expected.norms),
        RecognizeGelu(),
        RecognizeGated(expected=expected.gated),
        RecognizeRotary(capacity, expected=expected.rotary_embeddings),
        RecognizeAttention(expected=expected.attentions),
        MergeProjections(),
        StaticKvCache(capacity, expected=expected.attentions),
        CutRotaryTables(capacity),
        *((LastPositionLogits(),) if last_position_only else ()),
    )


def normalize_graph(model: ir.Model, *, expected: Expected | None = None) -> PassResult:
    """Bring the main graph of any model to canonical ops; inputs and outputs keep name, order and type.

    A model that had to stay at its old opset is left alone, with that reason. Bodies of subgraphs and
    functions stay as they are. What the front end left as it came is in the result's `declined`, too.
    """
    if OPSET_KEPT in model.metadata_props:
        return PassResult(model, declined=_left_by_the_front_end(model))
    result = run_passes(model, graph_passes(expected or Expected()))
    return replace(result, declined=(*_left_by_the_front_end(model), *result.declined))


def _left_by_the_front_end(model: ir.Model) -> tuple[Declined, ...]:
    reasons = [model.metadata_props.get(key) for key in (OPSET_KEPT, QUANTIZATION_KEPT, ATTENTION_KEPT)]
    return tuple(Declined("normalize_graph", "model", one) for one in reasons if one is not None)


def graph_passes(expected: Expected) -> tuple[Pass, ...]:
    """The passes of `normalize_graph`, in order."""
    return (
        LowerContrib(),
        *_cleaning(),
        RecognizeNorms(expected=expected.norms),
        RecognizeGelu(),
        RecognizeGated(expected=expected.gated),
        RecognizeRotary(None, expected=expected.rotary_embeddings),
        SplitHeads(),
        RecognizeAttention(expected=expected.attentions),
        CleanUp(),
    )


def _cleaning() -> tuple[Pass, ...]:
    """What makes the patterns of the other passes fewer."""
    return (
        InferShapes(),
        CleanUp(),
        FoldConstants(),
        CleanUp(),
        FoldVectors(),
        SplitSequences(),
        SplitSlices(),
        RecognizeLinears(),
        LiftRows(),
    )
