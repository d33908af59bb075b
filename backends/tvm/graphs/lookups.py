"""Lookups of embeddings: rows of stored or computed tables."""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from intaglio.backends.tvm.graphs.builder import TableBuilder, dtype_of, is_known
from intaglio.backends.tvm.graphs.claims import Claim, Views
from intaglio.backends.tvm.graphs.constants import is_stored, stored_shape, whole
from intaglio.backends.tvm.graphs.nodes import site_of
from intaglio.backends.tvm.graphs.views import View, padded
from intaglio.kernels.gather.kernel import GatherRows


def claim_lookup(node: ir.Node, views: Views) -> Claim | None:
    """`Gather` of whole rows of float32 along the first axis."""
    if node.op_type != "Gather" or node.domain or not is_known(node.outputs[0]):
        return None
    table, index = node.inputs
    if table is None or index is None or node.attributes.get_int("axis", 0) != 0:
        return None
    shape = stored_shape(table) if is_stored(table) else views[table].shape if table in views else ()
    if len(shape) != 2 or dtype_of(table) != "float32" or dtype_of(index) not in ("int32", "int64"):
        return None
    if not all(is_stored(one) or (one in views and views[one].plain) for one in (table, index)):
        return None
    reads = tuple(one for one in (table, index) if one in views)
    return Claim("lookup", (node,), lambda builder: _append(builder, node), reads)


def _append(builder: TableBuilder, node: ir.Node) -> None:
    table, index = (_view(builder, one) for one in node.inputs if one is not None)
    rows, columns = table.shape
    result = builder.rows(node.outputs[0])
    kernel = GatherRows(rows, columns, columns, padded(columns), index.dtype)
    buffers = [table.buffer, index.buffer, result.buffer]
    builder.add(kernel, buffers, site_of(node), writes=[result.buffer], count=prod(index.shape))


def _view(builder: TableBuilder, value: ir.Value) -> View:
    return whole(builder.shared, value) if is_stored(value) else builder.views[value]
