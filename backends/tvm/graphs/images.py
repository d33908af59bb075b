"""Poolings and resizings of channels-last images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.backends.tvm.graphs.builder import TableBuilder, is_known, shape_of
from intaglio.backends.tvm.graphs.claims import Claim, Views
from intaglio.backends.tvm.graphs.moves import as_pixels
from intaglio.backends.tvm.graphs.nodes import constant, input_at, site_of
from intaglio.backends.tvm.graphs.views import View, pixel_strides
from intaglio.kernels.pooling.pooling import Pooling
from intaglio.kernels.resize.resize import Resize
from intaglio.kernels.resize.tables import coordinates, linear, nearest

WHOLE = {"GlobalAveragePool": "average", "GlobalMaxPool": "max", "ReduceMean": "average", "ReduceMax": "max"}
TRANSFORMATIONS = ("asymmetric", "align_corners", "half_pixel", "pytorch_half_pixel")
WINDOWS = {"MaxPool": "max", "AveragePool": "average"}


def claim_pooling(node: ir.Node, views: Views) -> Claim | None:
    """Maxima and averages over windows, or over whole images."""
    source = node.inputs[0] if node.inputs else None
    if node.domain or node.op_type not in (*WHOLE, *WINDOWS) or source is None or source not in views:
        return None
    view = views[source]
    used = any(one.uses() or one.is_graph_output() for one in node.outputs[1:])
    if used or view.dtype != "float32" or len(view.shape) not in (3, 4) or not is_known(node.outputs[0]):
        return None
    kernel = _whole(node, view) if node.op_type in WHOLE else _windows(node, view, shape_of(node.outputs[0]))
    if kernel is None:
        return None
    return Claim("pooling", (node,), lambda table: _append(table, node, source, kernel), (source,))


def _whole(node: ir.Node, view: View) -> Pooling | None:
    size = _two(view.shape[2:], 1)
    if node.op_type.startswith("Reduce"):
        given = constant(input_at(node, 1))
        axes = given.reshape(-1).tolist() if given is not None else node.attributes.get_ints("axes", ())
        rank = len(view.shape)
        if sorted(int(one) % rank for one in axes) != list(range(2, rank)):
            return None
    return Pooling(view.shape[0], size, view.shape[1], size, mode=WHOLE[node.op_type])


def _windows(node: ir.Node, view: View, result: tuple[int, ...]) -> Pooling | None:
    spatial = len(view.shape) - 2
    ints = node.attributes.get_ints
    if node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return None
    pads = tuple(ints("pads", (0,) * (2 * spatial)))
    mode = WINDOWS[node.op_type]
    if mode == "average" and node.attributes.get_int("count_include_pad", 0) != 0:
        mode = "average_with_padding"
    kernel = Pooling(
        view.shape[0],
        _two(view.shape[2:], 1),
        view.shape[1],
        _two(tuple(ints("kernel_shape", ())), 1),
        _two(tuple(ints("strides", (1,) * spatial)), 1),
        _two(tuple(ints("dilations", (1,) * spatial)), 1),
        (*_two(pads[:spatial], 0), *_two(pads[spatial:], 0)),
        mode=mode,
    )
    wanted = _two(result[2:], 1)
    missing = [want - have for want, have in zip(wanted, kernel.result_size, strict=True)]
    if missing != [0, 0]:
        # With ceil_mode a last window may hang over.
        room = tuple(one * step for one, step in zip(missing, kernel.strides, strict=True))
        if min(room) < 0:
            return None
        kernel = replace(kernel, overhang=(room[0], room[1]))
    return kernel if kernel.result_size == wanted else None


def _append(table: TableBuilder, node: ir.Node, source: ir.Value, kernel: Pooling) -> None:
    site, output = site_of(node), node.outputs[0]
    view = as_pixels(table, table.views[source], site)
    shape = (view.shape[0], view.shape[1], *kernel.result_size[2 - (len(view.shape) - 2) :])
    result = table.new("float32", shape, pixel_strides(shape))
    table.add(kernel, [view.buffer, result.buffer], site, writes=[result.buffer])
    found = result.reshaped(shape_of(output))
    assert found is not None, f"{node.name}: {shape} is not {shape_of(output)}"
    table.put(output, found)


def claim_resize(node: ir.Node, views: Views) -> Claim | None:
    """`Resize` of height and width, to the nearest pixels or between two."""
    source = node.inputs[0] if node.inputs else None
    if node.op_type != "Resize" or node.domain or source is None or source not in views:
        return None
    view, output = views[source], node.outputs[0]
    if not is_known(output) or view.dtype != "float32" or len(view.shape) != 4:
        return None
    mode = node.attributes.get_string("mode", "nearest")
    other = node.attributes.get_int("antialias", 0) != 0 or "axes" in node.attributes
    if other or mode not in ("nearest", "linear") or shape_of(output)[:2] != view.shape[:2]:
        return None
    if node.attributes.get_string("coordinate_transformation_mode", "half_pixel") not in TRANSFORMATIONS:
        return None
    return Claim("resize", (node,), lambda table: _append_resize(table, node, source), (source,))


def _append_resize(table: TableBuilder, node: ir.Node, source: ir.Value) -> None:
    site, output = site_of(node), node.outputs[0]
    view = as_pixels(table, table.views[source], site)
    result = table.pixels(output)
    size, wanted = _two(view.shape[2:], 1), _two(result.shape[2:], 1)
    kernel = Resize(view.shape[0], size, wanted, view.shape[1], node.attributes.get_string("mode", "nearest"))
    places = [_places(node, axis, size[axis], wanted[axis]) for axis in range(2)]
    if kernel.mode == "nearest":
        rounding = node.attributes.get_string("nearest_mode", "round_prefer_floor")
        tables: list[NDArray[Any]] = [
            nearest(extent, one, rounding) for extent, one in zip(size, places, strict=True)
        ]
    else:
        pairs = [linear(extent, one) for extent, one in zip(size, places, strict=True)]
        tables = [*(one[0] for one in pairs), *(one[1] for one in pairs)]
    stored = [_table(table, f"{site}.{index}", one) for index, one in enumerate(tables)]
    table.add(kernel, [view.buffer, *stored, result.buffer], site, writes=[result.buffer])


def _places(node: ir.Node, axis: int, extent: int, wanted: int) -> NDArray[np.float32]:
    """Where the rows (0) or columns (1) of the result lie in the input."""
    scales = constant(input_at(node, 2))
    scale = float(scales[2 + axis]) if scales is not None and scales.size == 4 else wanted / extent
    mode = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    return coordinates(extent, wanted, scale, mode)


def _table(table: TableBuilder, name: str, array: NDArray[Any]) -> int:
    return table.shared.stored(f"{table.name}.{name}", array.nbytes, lambda: np.ascontiguousarray(array))


def _two(values: tuple[int, ...], missing: int) -> tuple[int, int]:
    return (missing, values[0]) if len(values) == 1 else (values[0], values[1])
