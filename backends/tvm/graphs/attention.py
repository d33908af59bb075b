"""Attention over whole sequences, read where the layers before it leave heads."""

from __future__ import annotations

import math

import onnx_ir as ir

from intaglio.backends.tvm.graphs.builder import TableBuilder, dtype_of, is_known, shape_of
from intaglio.backends.tvm.graphs.claims import Claim, Views
from intaglio.backends.tvm.graphs.nodes import input_at, site_of
from intaglio.backends.tvm.graphs.views import LANES, View, row_major
from intaglio.kernels.attention_whole.kernel import Layout, WholeAttention

PLAIN = {"float32": "float", "bool": "bool"}


def claim_attention(node: ir.Node, views: Views) -> Claim | None:
    """4-D attention without a cache; masks broadcast over anything but the keys."""
    if node.op_type != "Attention" or node.domain or not is_known(node.outputs[0]):
        return None
    given = [one for one in node.inputs if one is not None]
    others = any(one.uses() or one.is_graph_output() for one in node.outputs[1:])
    windowed = node.attributes.get_int("left_window_size", -1) >= 0
    windowed |= node.attributes.get_int("right_window_size", -1) >= 0
    if others or windowed or len(given) not in (3, 4) or node.attributes.get_float("softcap", 0.0) != 0.0:
        return None
    if any(one not in views or len(views[one].shape) != 4 for one in given[:3]):
        return None
    if not all(_is_heads(views[one]) for one in given[:3]) or views[given[2]].shape[3] % LANES:
        return None
    if input_at(node, 3) is not None and _mask(node, views) is None:
        return None
    return Claim("attention", (node,), lambda table: _append(table, node), tuple(given))


def _is_heads(view: View) -> bool:
    return view.dtype == "float32" and view.strides[3] == 1


def _mask(node: ir.Node, views: Views) -> View | None:
    """The mask as `[sequences, heads, queries, keys]`, strides being 0 where it is repeated."""
    value = input_at(node, 3)
    view = None if value is None else views.get(value)
    if view is None or view.dtype not in PLAIN or not view.shape or len(view.shape) > 4:
        return None
    query, key = (shape for shape in (views[node.inputs[0]].shape, views[node.inputs[1]].shape))  # type: ignore[index]
    wanted = (query[0], query[1], query[2], key[2])
    shape = (1,) * (4 - len(view.shape)) + view.shape
    strides = (0,) * (4 - len(view.strides)) + view.strides
    if (
        any(one not in (1, extent) for one, extent in zip(shape, wanted, strict=True))
        or shape[3] != wanted[3]
    ):
        return None
    if wanted[3] > 1 and strides[3] != 1:
        return None
    found = tuple(0 if one == 1 else stride for one, stride in zip(shape, strides, strict=True))
    return View(view.buffer, view.dtype, wanted, found, view.offset)


def _append(table: TableBuilder, node: ir.Node) -> None:
    query, key, value = (table.views[one] for one in node.inputs[:3] if one is not None)
    output = node.outputs[0]
    sequences, heads, queries, head_dim = query.shape
    width = value.shape[3]
    # Heads of a token side by side, as the layer after it reads them.
    row, by_token = heads * width, (sequences, queries, heads, width)
    result = table.new(dtype_of(output), by_token, row_major(by_token)).transposed((0, 2, 1, 3))
    mask = _mask(node, table.views)
    scale = node.attributes.get_float("scale", 1.0 / math.sqrt(head_dim))
    kernel = WholeAttention(
        sequences,
        heads,
        key.shape[1],
        queries,
        key.shape[2],
        head_dim,
        width,
        scale,
        _layout(query),
        _layout(key),
        _layout(value),
        Layout(queries * row, width, row),
        mask="" if mask is None else PLAIN[mask.dtype],
        mask_layout=Layout(0, 0, 0) if mask is None else _layout(mask),
        causal=bool(node.attributes.get_int("is_causal", 0)),
    )
    scratch = table.shared.private(4 * kernel.scratch_floats)
    masks = [] if mask is None else [mask.buffer]
    buffers = [query.buffer, key.buffer, value.buffer, *masks, scratch, result.buffer]
    table.add(kernel, buffers, site_of(node), writes=[result.buffer])
    assert result.shape == shape_of(output), f"{node.name} gives {shape_of(output)}"
    table.put(output, result)


def _layout(view: View) -> Layout:
    return Layout(view.strides[0], view.strides[1], view.strides[2], view.offset)
