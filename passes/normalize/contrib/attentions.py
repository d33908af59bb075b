"""Attention and rotary embedding of `com.microsoft`, where no cache is involved."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from intaglio.passes.normalize.contrib.writer import NotLowered, Writer
from intaglio.passes.rewriting import rank, sizes

BOOL, WHOLE = {"to": int(ir.DataType.BOOL)}, {"to": int(ir.DataType.INT64)}


def attention(writer: Writer) -> None:
    """`Attention(x, W, b, mask, bias)` → `Attention` of the three parts of `x · W + b`."""
    writer.without(4, 6)
    writer.plain(do_rotary=0, past_present_share_buffer=0)
    writer.unused(1)
    heads, weight = _heads(writer), writer.required(1)
    parts = _part_sizes(writer, weight)
    mask, bias = _keep(writer, writer.input(3), 1), writer.input(5)
    joined = writer.op("MatMul", [writer.required(0), weight])
    shift = writer.input(2)
    joined = joined if shift is None else writer.op("Add", [joined, shift])
    split = writer.ops("Split", [joined, writer.integers(parts)], {"axis": -1}, 3)
    qkv = [writer.split_heads(one, heads) for one in split]
    causal = writer.integer("unidirectional")
    writer.finish(writer.join_heads(_attention(writer, qkv, causal, mask, bias)))


def multi_head_attention(writer: Writer) -> None:
    """`MultiHeadAttention(q, k, v, b, mask, bias)` → `Attention` of their heads."""
    writer.without(*range(6, 10))
    writer.unused(1, 2, 3)
    heads, inputs = _heads(writer), [writer.required(index) for index in range(3)]
    if any(rank(one) != 3 for one in inputs):
        raise NotLowered("MultiHeadAttention has packed inputs, or inputs of unknown rank")
    mask, bias = _keep(writer, writer.input(4), 4), writer.input(5)
    if (shift := writer.input(3)) is not None:
        widths = [(sizes(one) or [None])[-1] for one in inputs]
        if not all(isinstance(one, int) for one in widths):
            raise NotLowered("MultiHeadAttention has a bias and inputs of unknown width")
        pieces = writer.integers([one for one in widths if isinstance(one, int)])
        shifts = writer.ops("Split", [shift, pieces], {"axis": 0}, 3)
        inputs = [writer.op("Add", [one, by]) for one, by in zip(inputs, shifts, strict=True)]
    qkv = [writer.split_heads(one, heads) for one in inputs]
    causal = writer.integer("unidirectional")
    writer.finish(writer.join_heads(_attention(writer, qkv, causal, mask, bias)))


def group_query_attention(writer: Writer) -> None:
    """`GroupQueryAttention(q, k, v)` without past → causal `Attention`, and its keys and values.

    Tokens after the length of a sequence are padding: what they give has no meaning and differs.
    """
    writer.without(3, 4, *range(9, 14))
    writer.plain(smooth_softmax=0, qk_output=0)
    heads, groups = _heads(writer), writer.integer("kv_num_heads")
    inputs = [writer.required(index) for index in range(3)]
    qkv = [writer.split_heads(one, count) for one, count in zip(inputs, (heads, groups, groups), strict=True)]
    if writer.integer("do_rotary"):
        qkv[:2] = [_rotated_from_start(writer, one) for one in qkv[:2]]
    window, softcap = writer.integer("local_window_size", -1), writer.real("softcap", 0.0)
    more: dict[str, int | float] = {"left_window_size": window - 1} if window > 0 else {}
    more |= {"softcap": softcap} if softcap else {}
    result = writer.join_heads(_attention(writer, qkv, 1, None, None, more))
    writer.finish(result, qkv[1], qkv[2])


def rotary_embedding(writer: Writer) -> None:
    """`RotaryEmbedding(x, ids, cos, sin)` → the standard one, whose inputs stand in another order."""
    writer.plain(is_packed_batching=0, scale=1.0)
    x, ids, cosine = writer.required(0), writer.required(1), writer.required(2)
    width, axes = (sizes(cosine) or [None])[-1], rank(x)
    if axes not in (3, 4) or not isinstance(width, int):
        raise NotLowered("RotaryEmbedding of a value or a table of unknown shape")
    heads, columns = writer.integer("num_heads"), writer.integer("rotary_embedding_dim")
    total = (sizes(x) or [None])[-1]
    if axes == 3 and not heads:
        if not isinstance(total, int) or columns:
            raise NotLowered("RotaryEmbedding does not say how many heads there are")
        heads = total // (2 * width)
    attributes = {"interleaved": writer.integer("interleaved"), "rotary_embedding_dim": columns}
    attributes |= {"num_heads": heads} if axes == 3 else {}
    positions = _positions(writer, ids, x, axes - 2 if axes == 4 else 1)
    inputs = [x, cosine, writer.required(3), positions]
    writer.finish(writer.op("RotaryEmbedding", inputs, {k: v for k, v in attributes.items() if v}))


def _heads(writer: Writer) -> int:
    heads = writer.integer("num_heads")
    if heads < 1:
        raise NotLowered(f"{writer.node.op_type} has num_heads={heads}")
    return heads


def _part_sizes(writer: Writer, weight: ir.Value) -> list[int]:
    given = writer.node.attributes.get_ints("qkv_hidden_sizes", None)
    if given is not None:
        return list(given)
    columns = (sizes(weight) or [None])[-1]
    if not isinstance(columns, int) or columns % 3:
        raise NotLowered(f"Attention has weights of {columns} columns, which make no three parts")
    return [columns // 3] * 3


def _keep(writer: Writer, mask: ir.Value | None, _: int) -> ir.Value | None:
    """A boolean mask `[batch, 1, 1, keys]` of 0 and 1 `[batch, keys]`, or of lengths `[batch]`."""
    if mask is None:
        return None
    axes = rank(mask)
    if axes == 2:
        return writer.op("Unsqueeze", [writer.op("Cast", [mask], BOOL), writer.integers([1, 2])])
    if axes != 1 or writer.node.op_type != "Attention":
        raise NotLowered(f"{writer.node.op_type} has a mask of {axes} axes")
    x = writer.required(0)
    count = writer.op("Squeeze", [writer.op("Shape", [x], {"start": 1, "end": 2})])
    ends = [writer.constant(np.array(number, np.int64)) for number in (0, 1)]
    keys = writer.op("Range", [ends[0], count, ends[1]])
    lengths = writer.op("Unsqueeze", [writer.op("Cast", [mask], WHOLE), writer.integers([1, 2, 3])])
    return writer.op("Less", [keys, lengths])


def _attention(
    writer: Writer,
    qkv: Sequence[ir.Value],
    causal: int,
    mask: ir.Value | None,
    bias: ir.Value | None,
    more: dict[str, int | float] | None = None,
) -> ir.Value:
    scale = writer.real("scale", 0.0)
    attributes: dict[str, int | float] = {"is_causal": causal, **(more or {})}
    attributes |= {"scale": scale} if scale and math.isfinite(scale) else {}
    total = _mask(writer, qkv[0], mask, bias)
    return writer.op("Attention", [*qkv, *([total] if total is not None else [])], attributes)


def _mask(writer: Writer, query: ir.Value, mask: ir.Value | None, bias: ir.Value | None) -> ir.Value | None:
    """Mask and bias as one, with an axis of queries as long as they are."""
    total = mask if bias is None else bias
    if mask is not None and bias is not None:
        total = writer.op("Where", [mask, bias, writer.number(-np.inf, bias)])
    if total is None:
        return None
    size = writer.op("Shape", [query], {"start": 2, "end": 3})
    return writer.op("Expand", [total, writer.op("Concat", [size, writer.integers([1])], {"axis": 0})])


def _rotated_from_start(writer: Writer, x: ir.Value) -> ir.Value:
    cosine, sine = writer.required(7), writer.required(8)
    positions = _positions(writer, writer.integers([0]), x, 2)
    width = (sizes(cosine) or [None])[-1]
    attributes = {"interleaved": writer.integer("rotary_interleaved")}
    if isinstance(width, int):
        attributes["rotary_embedding_dim"] = 2 * width
    return writer.op("RotaryEmbedding", [x, cosine, sine, positions], attributes)


def _positions(writer: Writer, ids: ir.Value, x: ir.Value, axis: int) -> ir.Value:
    """`ids` as they are, or, where they are the one first position, counted along `axis` of `x`."""
    if rank(ids) == 2:
        return ids
    if rank(ids) != 1:
        raise NotLowered(f"{writer.node.op_type} has positions of unknown rank")
    size = writer.op("Squeeze", [writer.op("Shape", [x], {"start": axis, "end": axis + 1})])
    ends = [writer.constant(np.array(number, np.int64)) for number in (0, 1)]
    steps = writer.op("Add", [writer.op("Range", [ends[0], size, ends[1]]), ids])
    batch = writer.op("Shape", [x], {"start": 0, "end": 1})
    target = writer.op("Concat", [batch, writer.integers([1])], {"axis": 0})
    return writer.op("Expand", [writer.op("Unsqueeze", [steps, writer.integers([0])]), target])
