"""Norms and embeddings of `com.microsoft`."""

from __future__ import annotations

import onnx_ir as ir

from intaglio.passes.normalize.contrib.writer import Writer

EPSILON = 1e-12  # where a skip or embedding norm does not say
LAST = {"axis": -1}


def simplified_layer_normalization(writer: Writer) -> None:
    """`SimplifiedLayerNormalization(x, w)` → `RMSNormalization(x, w)`."""
    writer.unused(1)
    attributes = {"axis": writer.integer("axis", -1), "epsilon": writer.real("epsilon", 1e-5)}
    writer.finish(writer.op("RMSNormalization", [writer.required(0), writer.required(1)], attributes))


def skip_layer_normalization(writer: Writer) -> None:
    """`SkipLayerNormalization(x, skip, w, b, bias)` → the sum, and its `LayerNormalization`."""
    writer.unused(1, 2)
    total = _summed(writer, writer.input(4))
    norm = _layer_norm(writer, total, writer.required(2), writer.input(3))
    writer.finish(norm, None, None, total)


def skip_simplified_layer_normalization(writer: Writer) -> None:
    """`SkipSimplifiedLayerNormalization(x, skip, w, bias)` → the sum, and its `RMSNormalization`."""
    writer.unused(1, 2)
    total = _summed(writer, writer.input(3))
    attributes = {**LAST, "epsilon": writer.real("epsilon", EPSILON)}
    writer.finish(writer.op("RMSNormalization", [total, writer.required(2)], attributes), None, None, total)


def embed_layer_normalization(writer: Writer) -> None:
    """`EmbedLayerNormalization(ids, segments, words, positions, segment_table, w, b, mask, position_ids)` →
    the sum of the rows, its `LayerNormalization`, and how many tokens each mask keeps.
    """
    ids, segments, mask = writer.required(0), writer.input(1), writer.input(7)
    rows = [writer.op("Gather", [writer.required(2), ids], {"axis": 0})]
    rows.append(
        writer.op("Gather", [writer.required(3), writer.input(8) or _counted(writer, ids)], {"axis": 0})
    )
    if segments is not None:
        rows.append(writer.op("Gather", [writer.required(4), segments], {"axis": 0}))
    total = rows[0]
    for one in rows[1:]:
        total = writer.op("Add", [total, one])
    norm = _layer_norm(writer, total, writer.required(5), writer.required(6))
    writer.finish(norm, _lengths(writer, ids, mask), total)


def _summed(writer: Writer, bias: ir.Value | None) -> ir.Value:
    total = writer.op("Add", [writer.required(0), writer.required(1)])
    return total if bias is None else writer.op("Add", [total, bias])


def _layer_norm(writer: Writer, x: ir.Value, weight: ir.Value, bias: ir.Value | None) -> ir.Value:
    attributes = {**LAST, "epsilon": writer.real("epsilon", EPSILON)}
    inputs = [x, weight, *([bias] if bias is not None else [])]
    return writer.op("LayerNormalization", inputs, attributes)


def _counted(writer: Writer, ids: ir.Value) -> ir.Value:
    """0, 1, … for the tokens of a sequence, `[1, sequence]`."""
    size = writer.op("Squeeze", [writer.op("Shape", [ids], {"start": 1, "end": 2})])
    zero, one = (writer.op("Squeeze", [writer.integers([number])]) for number in (0, 1))
    return writer.op("Unsqueeze", [writer.op("Range", [zero, size, one]), writer.integers([0])])


def _lengths(writer: Writer, ids: ir.Value, mask: ir.Value | None) -> ir.Value:
    whole = {"to": int(ir.DataType.INT32)}
    if mask is None:
        size = writer.op("Shape", [ids], {"start": 0, "end": 1})
        return writer.op("Cast", [writer.op("Expand", [writer.integers([0]), size])], whole)
    total = writer.op("ReduceSum", [mask, writer.integers([1])], {"keepdims": 0})
    return writer.op("Cast", [total], whole)
