"""Reductions, softmax, and element-wise ops over tensors of any strides and types."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_ir as ir

from intaglio.backends.tvm.graphs.builder import TableBuilder, dtype_of, is_known, shape_of
from intaglio.backends.tvm.graphs.claims import Claim, Views
from intaglio.backends.tvm.graphs.constants import array_of, is_stored, whole
from intaglio.backends.tvm.graphs.moves import as_plain
from intaglio.backends.tvm.graphs.nodes import constant, input_at, site_of
from intaglio.backends.tvm.graphs.views import View
from intaglio.kernels.reduction.reduction import Reduction
from intaglio.kernels.row_program.program import Step
from intaglio.kernels.softmax.softmax import Softmax
from intaglio.kernels.tensor_program.operand import Operand
from intaglio.kernels.tensor_program.program import TensorProgram

REDUCTIONS = {
    "ReduceSum": "sum",
    "ReduceMean": "mean",
    "ReduceMax": "max",
    "ReduceMin": "min",
    "ReduceProd": "product",
    "ReduceSumSquare": "sum_squares",
}
ARITHMETIC = {
    "Add": "add",
    "Sub": "subtract",
    "Mul": "multiply",
    "Div": "divide",
    "Max": "maximum",
    "Min": "minimum",
}
COMPARISONS = {"Equal": "equal", "Less": "less", "LessOrEqual": "less_equal"}
ELEMENTS = {**{name: name for name in ("float32", "int32", "int64", "uint8", "int8")}, "bool": "uint8"}
EXACT = 1 << 24  # whole numbers below are float32 numbers


def claim_reduction(node: ir.Node, views: Views) -> Claim | None:
    """Sums, means and extremes over some axes, of float32."""
    source = node.inputs[0] if node.inputs else None
    if node.domain or node.op_type not in REDUCTIONS or source is None or source not in views:
        return None
    view, output = views[source], node.outputs[0]
    axes = _axes(node, len(view.shape))
    if view.dtype != "float32" or not is_known(output) or not axes or view.size == 0:
        return None
    return Claim("reduction", (node,), lambda table: _reduce(table, node, source, axes), (source,))


def _axes(node: ir.Node, rank: int) -> tuple[int, ...] | None:
    if input_at(node, 1) is not None:
        given = constant(input_at(node, 1))
        found = None if given is None else [int(one) for one in given.reshape(-1)]
    else:
        found = list(node.attributes.get_ints("axes", ()))
    if found is None:
        return None
    if not found:
        return () if node.attributes.get_int("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(one % rank for one in found)


def _reduce(table: TableBuilder, node: ir.Node, source: ir.Value, axes: tuple[int, ...]) -> None:
    view = table.views[source]
    result = table.plain(node.outputs[0])
    kept = tuple(1 if axis in axes else extent for axis, extent in enumerate(view.shape))
    spread = result.reshaped(kept)
    assert spread is not None, "what is row-major has any shape"
    strides = tuple(0 if axis in axes else stride for axis, stride in enumerate(spread.strides))
    kernel = Reduction(
        REDUCTIONS[node.op_type], view.shape, Operand(view.strides, "float32", view.offset), Operand(strides)
    )
    table.add(kernel, [view.buffer, result.buffer], site_of(node), writes=[result.buffer])


def claim_softmax(node: ir.Node, views: Views) -> Claim | None:
    """`Softmax` and `LogSoftmax` along any axis."""
    source = node.inputs[0] if node.inputs else None
    if node.domain or node.op_type not in ("Softmax", "LogSoftmax") or source is None or source not in views:
        return None
    view = views[source]
    if view.dtype != "float32" or not is_known(node.outputs[0]) or not view.shape or view.size == 0:
        return None
    return Claim("softmax", (node,), lambda table: _softmax(table, node, source), (source,))


def _softmax(table: TableBuilder, node: ir.Node, source: ir.Value) -> None:
    site, shape = site_of(node), shape_of(node.outputs[0])
    axis = node.attributes.get_int("axis", -1) % len(shape)
    view = as_plain(table, table.views[source], site)
    result = table.plain(node.outputs[0])
    kernel = Softmax(
        prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]), logarithm=node.op_type == "LogSoftmax"
    )
    table.add(kernel, [view.buffer, result.buffer], site, writes=[result.buffer])


def claim_tensors(node: ir.Node, views: Views) -> Claim | None:
    """Arithmetic with any broadcasting, comparisons of whole numbers, choices, and casts."""
    output = node.outputs[0]
    if node.domain or not is_known(output) or 0 in shape_of(output) or dtype_of(output) not in ELEMENTS:
        return None
    operands = [one for one in node.inputs if one is not None]
    if not operands or not all(_usable(one, views) for one in operands):
        return None
    reads = tuple(one for one in operands if one in views)
    if not reads or _steps(node, views) is None:
        return None
    return Claim("elementwise", (node,), lambda table: _compute(table, node, operands), reads)


def _usable(value: ir.Value, views: Views) -> bool:
    if value in views:
        return views[value].dtype in ELEMENTS
    return is_stored(value) and value.dtype is not None and dtype_of(value) in ELEMENTS


def _steps(node: ir.Node, views: Views) -> list[Step] | None:
    """The steps over the operands, which are the program's inputs; `None` where it would not be exact."""
    operands = [one for one in node.inputs if one is not None]
    reads = [Step("input", index=index) for index in range(len(operands))]
    float_result = dtype_of(node.outputs[0]) == "float32"
    types = [views[one].dtype if one in views else dtype_of(one) for one in operands]
    if node.op_type in ARITHMETIC and len(operands) == 2 and float_result:
        return [*reads, Step(ARITHMETIC[node.op_type], (0, 1))]
    if node.op_type in COMPARISONS and len(operands) == 2 and _exact(operands, types):
        return [*reads, Step(COMPARISONS[node.op_type], (0, 1))]
    if node.op_type == "Where" and len(operands) == 3 and float_result:
        return [*reads, Step("where", (0, 1, 2))]
    if node.op_type == "Not":
        return [*reads, Step("not", (0,))]
    if node.op_type == "Cast" and float_result:
        return reads
    if node.op_type == "Cast" and dtype_of(node.outputs[0]) == "bool":
        return [*reads, Step("not", (0,)), Step("not", (1,))]
    return None


def _exact(operands: list[ir.Value], types: list[str]) -> bool:
    """Whether a comparison as float32 is what it is of whole numbers: one of them is known and small."""
    if all(one in ("float32", "uint8", "int8", "bool") for one in types):
        return True
    known = [array_of(one) for one in operands if is_stored(one)]
    return any(one.size and int(np.abs(one).max()) < EXACT for one in known if one.dtype.kind in "iu")


def _compute(table: TableBuilder, node: ir.Node, operands: list[ir.Value]) -> None:
    output = node.outputs[0]
    shape = shape_of(output)
    views = [table.views[one] if one in table.views else whole(table.shared, one) for one in operands]
    steps = _steps(node, table.views)
    assert steps is not None, "checked"
    result = table.plain(output)
    extents = shape or (1,)
    inputs = tuple(Operand(_spread(one, extents), ELEMENTS[one.dtype], one.offset) for one in views)
    into = Operand(result.strides or (1,), ELEMENTS[result.dtype])
    kernel = TensorProgram(extents, inputs, tuple(steps), into)
    buffers = [*(one.buffer for one in views), result.buffer]
    table.add(kernel, buffers, site_of(node), writes=[result.buffer])


def _spread(view: View, extents: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of `view` repeated to `extents`."""
    lacking = len(extents) - len(view.shape)
    own = (0 if one == 1 else stride for one, stride in zip(view.shape, view.strides, strict=True))
    return (*(0,) * lacking, *own)
