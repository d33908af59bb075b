"""Norms and arithmetic over rows of the last axis: row programs."""

from __future__ import annotations

import onnx_ir as ir

from intaglio.backends.tvm.graphs.builder import TableBuilder, is_known, shape_of
from intaglio.backends.tvm.graphs.chains import BINARY, is_vector_along
from intaglio.backends.tvm.graphs.claims import Claim, Views
from intaglio.backends.tvm.graphs.constants import is_stored, number_of, stored_shape, vector
from intaglio.backends.tvm.graphs.views import padded
from intaglio.kernels.row_program.program import RowInput, RowProgram, Step
from intaglio.passes.rewriting import input_at, site_of

UNARY = {
    "Neg": "negate",
    "Abs": "absolute",
    "Exp": "exp",
    "Log": "log",
    "Tanh": "tanh",
    "Sigmoid": "logistic",
    "Erf": "erf",
    "Sqrt": "sqrt",
    "Reciprocal": "reciprocal",
    "Relu": "relu",
}
NORMS = {"LayerNormalization": "layer_norm", "RMSNormalization": "rms_norm"}


def claim_rows(node: ir.Node, views: Views) -> Claim | None:
    """A norm, or an element-wise op whose operands are rows, vectors of the last axis, or numbers."""
    output = node.outputs[0]
    if node.domain or not is_known(output) or not shape_of(output) or 0 in shape_of(output):
        return None
    operands = _operands(node)
    if operands is None or not all(_fits(one, output, views) for one in operands):
        return None
    reads = tuple(one for one in operands if one in views)
    if not reads:
        return None
    kind = "norm" if node.op_type in NORMS else "elementwise"
    return Claim(kind, (node,), lambda table: _append(table, node, operands), reads)


def _operands(node: ir.Node) -> list[ir.Value] | None:
    """The operands of an op that there are steps for."""
    present = [one for one in node.inputs if one is not None]
    if node.op_type in NORMS:
        rank = len(shape_of(node.outputs[0]))
        last = node.attributes.get_int("axis", -1) % rank == rank - 1
        used = any(one.uses() or one.is_graph_output() for one in node.outputs[1:])
        return present if last and not used else None
    if node.op_type in UNARY or node.op_type in ("Gelu", "Pow"):
        known = node.op_type != "Pow" or number_of(input_at(node, 1)) is not None
        return present[:1] if known else None
    if node.op_type in (*BINARY, "Div") and len(present) == 2:
        return present
    return None


def _fits(value: ir.Value, output: ir.Value, views: Views) -> bool:
    if value in views:
        view = views[value]
        return view.dtype == "float32" and view.shape == shape_of(output) and view.rows() is not None
    if not is_stored(value) or value.dtype != ir.DataType.FLOAT:
        return False
    return number_of(value) is not None or is_vector_along(stored_shape(value), -1, shape_of(output))


def _append(table: TableBuilder, node: ir.Node, operands: list[ir.Value]) -> None:
    columns = shape_of(node.outputs[0])[-1]
    steps: list[Step] = []
    inputs: list[RowInput] = []
    buffers: list[int] = []
    vectors: list[int] = []
    count = 1
    for value in operands:
        number = None if value in table.views else number_of(value)
        if value in table.views:
            view = table.views[value]
            found = view.rows()
            assert found is not None, "checked"
            count = found[0]
            steps.append(Step("input", index=len(inputs)))
            inputs.append(RowInput(found[1], "all", view.offset))
            buffers.append(view.buffer)
        elif number is not None and node.op_type not in NORMS:
            steps.append(Step("number", number=number))
        else:
            steps.append(Step("vector", index=len(vectors)))
            vectors.append(vector(table.shared, value, columns))
    steps.append(_last(node, len(steps)))
    result = table.rows(node.outputs[0])
    kernel = RowProgram(columns, tuple(inputs), len(vectors), tuple(steps), padded(columns), "all")
    scratch = [table.shared.private(4 * kernel.padded) for _ in kernel.norms]
    stage = [*buffers, *vectors, *scratch, result.buffer]
    table.add(kernel, stage, site_of(node), writes=[result.buffer], count=count)


def _last(node: ir.Node, count: int) -> Step:
    """The step that is the node itself, over `count` operands."""
    arguments = tuple(range(count))
    if node.op_type in NORMS:
        return Step(NORMS[node.op_type], arguments, number=node.attributes.get_float("epsilon", 1e-5))
    if node.op_type == "Gelu":
        tanh = node.attributes.get_string("approximate", "none") == "tanh"
        return Step("gelu_tanh" if tanh else "gelu_erf", arguments)
    if node.op_type == "Pow":
        number = number_of(input_at(node, 1))
        assert number is not None, "checked"
        return Step("power_of_number", arguments, number=number)
    op = UNARY.get(node.op_type) or ({**BINARY, "Div": "divide"})[node.op_type]
    return Step(op, arguments)
