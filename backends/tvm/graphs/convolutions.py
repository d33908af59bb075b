"""Convolutions over channels-last images, with all that follows element by element."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from intaglio.backends.tvm.graphs.arithmetic import has_vector
from intaglio.backends.tvm.graphs.builder import TableBuilder, is_known, shape_of
from intaglio.backends.tvm.graphs.chains import Link, Operands, follow
from intaglio.backends.tvm.graphs.claims import Claim, Views
from intaglio.backends.tvm.graphs.constants import array_of, is_stored, stored_shape, vector
from intaglio.backends.tvm.graphs.moves import as_pixels
from intaglio.backends.tvm.graphs.nodes import site_of
from intaglio.backends.tvm.graphs.products import operands_in, split_bias
from intaglio.backends.tvm.graphs.views import View, is_pixels
from intaglio.kernels.convolution.convolution import Convolution
from intaglio.kernels.convolution.packing import pack_weight

FEW = 4  # channels: a first layer reads them where they are
TRANSPOSED = "ConvTranspose"


def claim_convolution(node: ir.Node, views: Views) -> Claim | None:
    """`Conv` and `ConvTranspose` in one or two dimensions with stored weights."""
    if node.op_type not in ("Conv", TRANSPOSED) or node.domain or not is_known(node.outputs[0]):
        return None
    source, weight, bias = (*node.inputs, None)[:3]
    if source is None or source not in views or not is_stored(weight) or not is_stored_or_none(bias):
        return None
    view, output = views[source], node.outputs[0]
    if view.dtype != "float32" or len(view.shape) not in (3, 4) or 0 in (*view.shape, *shape_of(output)):
        return None
    if geometry(node, view.shape, shape_of(output)) is None:
        return None
    accepts = Operands(
        lambda value: value in views and views[value].dtype == "float32" and is_pixels(views[value]),
        lambda value: value in views and view.shape[0] == 1 and has_vector(views[value], 1),
    )
    links = follow(output, 1, accepts)
    operands = (one.operand for one in links if one.operand is not None and one.operand in views)
    nodes = (node, *(one for link in links for one in link.nodes))
    return Claim("convolution", nodes, lambda table: _append(table, node, links), (source, *operands))


def is_stored_or_none(value: ir.Value | None) -> bool:
    """Whether a bias is left out or known."""
    return value is None or is_stored(value)


def geometry(node: ir.Node, shape: tuple[int, ...], result: tuple[int, ...]) -> dict[str, Any] | None:
    """Kernel, strides, dilations and pads as two dimensions, if the result's shape follows from them."""
    weight = node.inputs[1]
    assert weight is not None, "checked"
    spatial = len(shape) - 2
    kernel = stored_shape(weight)[2:]
    strides = tuple(node.attributes.get_ints("strides", (1,) * spatial))
    dilations = tuple(node.attributes.get_ints("dilations", (1,) * spatial))
    pads = _pads(node, shape[2:], kernel, strides, dilations)
    if pads is None or "output_shape" in node.attributes:
        return None
    more = tuple(node.attributes.get_ints("output_padding", (0,) * spatial))
    flat = spatial == 1
    begin, end = (pads[:spatial], pads[spatial:])
    found: dict[str, Any] = {
        "batch": shape[0],
        "size": (1, shape[2]) if flat else (shape[2], shape[3]),
        "inputs": shape[1],
        "outputs": result[1],
        "kernel": _two(kernel, 1),
        "strides": _two(strides, 1),
        "dilations": _two(dilations, 1),
        "pads": (*_two(begin, 0), *_two(end, 0)),
        "groups": node.attributes.get_int("group", 1),
        "transposed": node.op_type == TRANSPOSED,
        "output_padding": _two(more, 0),
    }
    if found["size"][1] == result[-1] == 1 and found["kernel"][1] == 1:
        found = _turned(found)
        return found if Convolution(**found).result_size == (1, result[2]) else None
    computed = Convolution(**found).result_size
    return found if computed == _two(result[2:], 1) else None


def _turned(found: dict[str, Any]) -> dict[str, Any]:
    """A single column as a single row: the same in memory, and tiles are made of neighbours in a row."""
    pairs = ("size", "kernel", "strides", "dilations", "output_padding")
    turned = {name: (found[name][1], found[name][0]) for name in pairs}
    top, left, bottom, right = found["pads"]
    return {**found, **turned, "pads": (left, top, right, bottom)}


def _pads(
    node: ir.Node,
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> tuple[int, ...] | None:
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return tuple(node.attributes.get_ints("pads", (0,) * (2 * len(size))))
    if mode == "VALID":
        return (0,) * (2 * len(size))
    if node.op_type == TRANSPOSED:
        return None
    totals = [
        max(0, (-(-one // step) - 1) * step + (width - 1) * wide + 1 - one)
        for one, width, step, wide in zip(size, kernel, strides, dilations, strict=True)
    ]
    halves = [one // 2 for one in totals]
    rests = [one - half for one, half in zip(totals, halves, strict=True)]
    return (*halves, *rests) if mode == "SAME_UPPER" else (*rests, *halves)


def _two(values: tuple[int, ...], missing: int) -> tuple[int, int]:
    return (missing, values[0]) if len(values) == 1 else (values[0], values[1])


def _append(table: TableBuilder, node: ir.Node, links: list[Link]) -> None:
    source, weight, bias = (*node.inputs, None)[:3]
    assert source is not None, "checked"
    assert weight is not None, "checked"
    site = site_of(node)
    output = links[-1].output if links else node.outputs[0]
    view = table.views[source]
    found = geometry(node, view.shape, shape_of(node.outputs[0]))
    assert found is not None, "checked"
    rest = links
    if bias is None:
        bias, rest = split_bias(links)
    steps, operands = operands_in(table, rest, shape_of(output)[1], view.shape[0])
    layout, view = _input(table, view, site)
    kernel = Convolution(**found, chain=steps, layout=layout)
    size = 4 * kernel.blocks * 16 * kernel.kernel[0] * kernel.kernel[1]
    size *= 1 if kernel.depthwise else kernel.window

    def make() -> np.ndarray:
        array = array_of(weight).astype(np.float32)
        return pack_weight(kernel, array.reshape(*array.shape[:2], *kernel.kernel))

    packed = table.shared.stored(
        f"{weight.name}.convolution.{kernel.together}.{kernel.depthwise}", size, make
    )
    result = table.pixels(output)
    buffers = [view.buffer, packed, vector(table.shared, bias, kernel.outputs), *operands, result.buffer]
    table.add(kernel, buffers, site, writes=[result.buffer])


def _input(table: TableBuilder, view: View, site: str) -> tuple[str, View]:
    """The input's layout, and where it lies in it."""
    if not is_pixels(view) and view.plain and view.shape[1] <= FEW:
        return "plain", view
    return "last", as_pixels(table, view, site)
