"""Linear layers: products with stored matrices, with all that follows element by element."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from intaglio.backends.tvm.graphs.arithmetic import has_vector
from intaglio.backends.tvm.graphs.builder import TableBuilder, dtype_of, is_known
from intaglio.backends.tvm.graphs.chains import Link, Operands, follow
from intaglio.backends.tvm.graphs.claims import Claim, Views
from intaglio.backends.tvm.graphs.constants import array_of, is_stored, stored_shape, vector
from intaglio.backends.tvm.graphs.nodes import site_of
from intaglio.backends.tvm.graphs.views import View, is_pixels, padded, pixel_rows
from intaglio.kernels.chain.steps import ChainStep
from intaglio.kernels.convolution.convolution import Convolution
from intaglio.kernels.convolution.packing import pack_weight


def claim_product(node: ir.Node, views: Views) -> Claim | None:
    """`MatMul(x, W)` with a stored matrix, as a pointwise convolution over the rows of x."""
    source, weight = (*node.inputs, None, None)[:2]
    if node.op_type != "MatMul" or source is None or source not in views or not _is_matrix(weight):
        return None
    rows = views[source].rows()
    if rows is None or (rows[0] > 1 and views[source].offset + views[source].shape[-1] > rows[1]):
        return None
    if views[source].dtype != "float32" or not is_known(node.outputs[0]):
        return None
    assert weight is not None, "checked"
    accepts = Operands(
        lambda value: _has_rows(value, views), lambda value: value in views and has_vector(views[value], -1)
    )
    links = follow(node.outputs[0], -1, accepts)
    bias, rest = split_bias(links)
    reads = (source, *(one.operand for one in rest if one.operand in views and one.operand is not None))
    nodes = (node, *(one for link in links for one in link.nodes))

    def emit(table: TableBuilder) -> None:
        _append(table, node, weight, bias, rest, nodes[-1].outputs[0])

    return Claim("linear", nodes, emit, reads)


def _append(
    table: TableBuilder,
    node: ir.Node,
    weight: ir.Value,
    bias: ir.Value | None,
    links: list[Link],
    output: ir.Value,
) -> None:
    source = node.inputs[0]
    assert source is not None, "checked"
    view = table.views[source]
    found = view.rows()
    assert found is not None, "checked"
    count, stride = found
    columns, outputs = stored_shape(weight)
    steps, operands = operands_in(table, links, outputs)
    stride = stride if count > 1 else view.offset + columns
    kernel = Convolution(
        1, (1, count), columns, outputs, (1, 1), chain=steps, input_stride=stride, input_offset=view.offset
    )
    name = f"{weight.name}.product.{kernel.together}"
    size = 4 * padded(outputs) * columns

    def make() -> np.ndarray:
        matrix = array_of(weight).astype(np.float32).T
        return pack_weight(kernel, matrix[:, :, np.newaxis, np.newaxis])

    packed = table.shared.stored(name, size, make)
    result = table.rows(output)
    buffers = [view.buffer, packed, vector(table.shared, bias, outputs), *operands, result.buffer]
    table.add(kernel, buffers, site_of(node), writes=[result.buffer])


def split_bias(links: list[Link]) -> tuple[ir.Value | None, list[Link]]:
    """A stored vector that is added first is the kernel's bias; the other links."""
    first = links[0] if links else None
    if (
        first is not None
        and first.step.op == "add"
        and first.step.over == "image"
        and is_stored(first.operand)
    ):
        return links[0].operand, links[1:]
    return None, links


def operands_in(
    table: TableBuilder, links: list[Link], channels: int, images: int = 1
) -> tuple[tuple[ChainStep, ...], list[int]]:
    """The steps of a chain with the strides of their operands, and the operands' buffers."""
    steps, buffers = [], []
    for link in links:
        step = link.step
        if link.operand is not None and step.over == "image" and link.operand in table.views:
            buffers.append(table.views[link.operand].buffer)
        elif link.operand is not None and step.over == "image":
            buffers.append(vector(table.shared, link.operand, channels, images))
        elif link.operand is not None:
            view = table.views[link.operand]
            stride = _pixel_stride(view)
            step = ChainStep(step.op, step.a, step.b, "pixels", stride, view.offset)
            buffers.append(view.buffer)
        steps.append(step)
    return tuple(steps), buffers


def _pixel_stride(view: View) -> int:
    found = (pixel_rows(view) if is_pixels(view) else view).rows()
    assert found is not None, "checked when it was claimed"
    return found[1]


def _is_matrix(value: ir.Value | None) -> bool:
    return (
        value is not None
        and is_stored(value)
        and len(stored_shape(value)) == 2
        and dtype_of(value) == "float32"
    )


def _has_rows(value: ir.Value, views: Views) -> bool:
    """Whether a computed operand can be read a row at a time, in whole vectors."""
    view = views.get(value)
    if view is None or view.dtype != "float32":
        return False
    found = view.rows()
    return found is not None and found[1] >= padded(view.shape[-1])
