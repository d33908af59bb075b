"""Copies between layouts, and the nodes that are nothing else."""

from __future__ import annotations

import onnx_ir as ir

from intaglio.backends.tvm.graphs.builder import TableBuilder, dtype_of, is_known, shape_of
from intaglio.backends.tvm.graphs.claims import Claim, Views
from intaglio.backends.tvm.graphs.constants import is_stored, number_of, whole
from intaglio.backends.tvm.graphs.nodes import constant, input_at, site_of
from intaglio.backends.tvm.graphs.views import View, is_pixels, padded, pixel_strides, row_major
from intaglio.kernels.movement.movement import BYTES, MovedAxis, Movement

ELEMENTS = {**{name: name for name in BYTES}, "bool": "uint8"}
LIKE = ("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Expand", "Cast")


def copy_into(
    table: TableBuilder,
    source: View,
    result: View,
    site: str,
    before: tuple[int, ...] = (),
    fill: float = 0.0,
) -> None:
    """Copy `source` into `result`, of the same shape, or larger by what is filled before and after."""
    before = before or (0,) * len(source.shape)
    axes = tuple(
        MovedAxis(extent, stride, to, less, extent - less - inner)
        for extent, stride, to, less, inner in zip(
            result.shape, source.strides, result.strides, before, source.shape, strict=True
        )
    )
    kernel = Movement(ELEMENTS[source.dtype], axes, source.offset, result.offset, fill).canonical()
    buffers = [result.buffer] if kernel.filled else [source.buffer, result.buffer]
    table.add(kernel, buffers, site, writes=[result.buffer])


def as_plain(table: TableBuilder, view: View, site: str) -> View:
    """`view` row-major: itself, or a copy."""
    if view.plain:
        return view
    result = table.new(view.dtype, view.shape, row_major(view.shape))
    copy_into(table, view, result, site)
    return result


def as_pixels(table: TableBuilder, view: View, site: str) -> View:
    """`view`, `[N, C, spatial …]`, with its channels last, padded by zeros: itself, or a copy."""
    if is_pixels(view):
        return view
    shape = view.shape
    result = table.new(view.dtype, shape, pixel_strides(shape))
    wide = View(
        result.buffer,
        result.dtype,
        (shape[0], padded(shape[1]), *shape[2:]),
        pixel_strides(shape),
        result.offset,
    )
    copy_into(table, view, wide, site)
    return result


def claim_move(node: ir.Node, views: Views) -> Claim | None:
    """Reshapes that strides cannot say, expansions, concatenations and paddings with a number."""
    if node.domain or not is_known(node.outputs[0]) or 0 in shape_of(node.outputs[0]):
        return None
    if node.op_type == "Concat":
        return _claim_concat(node, views)
    source = node.inputs[0] if node.inputs else None
    if source is None or source not in views or views[source].dtype not in ELEMENTS:
        return None
    if node.op_type in LIKE and dtype_of(node.outputs[0]) == views[source].dtype:
        return Claim("movement", (node,), lambda table: _reshape(table, node, source), (source,))
    if node.op_type == "Pad" and _pads(node, len(views[source].shape)) is not None:
        return Claim("movement", (node,), lambda table: _pad(table, node, source), (source,))
    return None


def _reshape(table: TableBuilder, node: ir.Node, source: ir.Value) -> None:
    view, shape = table.views[source], shape_of(node.outputs[0])
    if node.op_type == "Expand":
        lacking = len(shape) - len(view.shape)
        strides = (0,) * lacking + tuple(
            0 if extent == 1 else stride for extent, stride in zip(view.shape, view.strides, strict=True)
        )
        spread = View(view.buffer, view.dtype, shape, strides, view.offset)
        copy_into(table, spread, table.plain(node.outputs[0]), site_of(node))
        return
    found = as_plain(table, view, site_of(node)).reshaped(shape)
    assert found is not None, "what is row-major has any shape"
    table.put(node.outputs[0], found)


def _claim_concat(node: ir.Node, views: Views) -> Claim | None:
    parts = [one for one in node.inputs if one is not None]
    if not all(is_stored(one) or (one in views and views[one].dtype in ELEMENTS) for one in parts):
        return None
    if dtype_of(node.outputs[0]) not in ELEMENTS or not any(one in views for one in parts):
        return None
    reads = tuple(one for one in parts if one in views)
    return Claim("movement", (node,), lambda table: _concat(table, node, parts), reads)


def _concat(table: TableBuilder, node: ir.Node, parts: list[ir.Value]) -> None:
    output = node.outputs[0]
    shape = shape_of(output)
    axis = node.attributes.get_int("axis", 0) % len(shape)
    computed = [table.views[one] for one in parts if one in table.views]
    last = len(shape) >= 3 and all(is_pixels(one) for one in computed)
    result = table.pixels(output) if last else table.plain(output)
    start = 0
    for index, one in enumerate(parts):
        view = table.views[one] if one in table.views else whole(table.shared, one)
        extent = view.shape[axis]
        # The last part of the channels also writes the padding.
        more = padded(shape[1]) - shape[1] if last and axis == 1 and index == len(parts) - 1 else 0
        if last and axis != 1:
            view, more = _wide(view, padded(shape[1])), 0
        target = list(view.shape)
        target[axis] = extent + more
        place = View(result.buffer, result.dtype, tuple(target), result.strides, start * result.strides[axis])
        if extent:
            copy_into(table, view, place, site_of(node))
        start += extent


def _wide(view: View, channels: int) -> View:
    return View(
        view.buffer, view.dtype, (view.shape[0], channels, *view.shape[2:]), view.strides, view.offset
    )


def _pads(node: ir.Node, rank: int) -> tuple[tuple[int, ...], tuple[int, ...], float] | None:
    """(before, after, the number)."""
    if node.attributes.get_string("mode", "constant") != "constant":
        return None
    given, axes = constant(input_at(node, 1)), input_at(node, 3)
    value = 0.0 if input_at(node, 2) is None else number_of(input_at(node, 2))
    if given is None or value is None or (axes is not None and constant(axes) is None):
        return None
    chosen = range(rank) if axes is None else [int(one) % rank for one in constant(axes)]  # type: ignore[union-attr]
    before, after = [0] * rank, [0] * rank
    half = len(given) // 2
    for place, axis in enumerate(chosen):
        before[axis], after[axis] = int(given[place]), int(given[half + place])
    if min(*before, *after) < 0:
        return None
    return tuple(before), tuple(after), float(value)


def _pad(table: TableBuilder, node: ir.Node, source: ir.Value) -> None:
    view = table.views[source]
    found = _pads(node, len(view.shape))
    assert found is not None, "checked"
    before, _, value = found
    copy_into(table, view, table.plain(node.outputs[0]), site_of(node), before, value)
