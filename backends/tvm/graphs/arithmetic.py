"""Element-wise arithmetic and norms: row programs over rows of the last axis, or of channels."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from intaglio.backends.tvm.graphs.builder import TableBuilder, dtype_of, is_known, shape_of
from intaglio.backends.tvm.graphs.chains import NUMBERED, Link, Operands, follow, is_vector_along
from intaglio.backends.tvm.graphs.claims import Claim, Views
from intaglio.backends.tvm.graphs.constants import is_stored, number_of, stored_shape, vector, whole
from intaglio.backends.tvm.graphs.moves import copy_into
from intaglio.backends.tvm.graphs.nodes import site_of
from intaglio.backends.tvm.graphs.views import View, is_pixels, padded, pixel_rows, pixel_strides, row_strides
from intaglio.backends.tvm.operators import BINARY, UNARY
from intaglio.kernels.chain.steps import ChainStep
from intaglio.kernels.row_program.program import RowInput, RowProgram, Step

NORMS = {"LayerNormalization": "layer_norm", "RMSNormalization": "rms_norm"}
HEADS = ("Gelu", "Pow", "Clip", "HardSigmoid", "LeakyRelu", "HardSwish")
MOST_INPUTS = 6  # of one program


def claim_arithmetic(node: ir.Node, views: Views) -> Claim | None:
    """A norm, or an element-wise op, with all the element-wise ops that follow."""
    output = node.outputs[0]
    if node.domain or not is_known(output) or not shape_of(output) or 0 in shape_of(output):
        return None
    operands = _operands(node)
    if operands is None or dtype_of(output) != "float32":
        return None
    leading = next((one for one in operands if one in views and views[one].shape == shape_of(output)), None)
    if leading is None:
        return None
    pixels = layout_of(views[leading]) == "pixels" and node.op_type not in NORMS
    axis = 1 if pixels else -1
    if not all(_usable(one, output, views) for one in operands):
        return None
    if node.op_type in NORMS and not all(_is_own(one, output, axis, views) for one in operands):
        return None
    accepts = Operands(
        lambda value: value in views and layout_of(views[value]) == ("pixels" if pixels else "rows"),
        lambda value: value in views and has_vector(views[value], axis),
    )
    links = follow(output, axis, accepts)[: MOST_INPUTS - len(operands) + 6]
    read = [*operands, *(one.operand for one in links if one.operand is not None)]
    reads = tuple(dict.fromkeys(one for one in read if one in views))
    nodes = (node, *(one for link in links for one in link.nodes))
    kind = "norm" if node.op_type in NORMS else "elementwise"
    return Claim(kind, nodes, lambda table: _append(table, node, operands, links, pixels), reads)


def layout_of(view: View) -> str | None:
    """ "pixels" or "rows", if a view of float32 is one of these."""
    if view.dtype != "float32":
        return None
    if is_pixels(view):
        return "pixels"
    return "rows" if view.rows() is not None else None


def has_vector(view: View, axis: int) -> bool:
    """Whether a computed operand lies as one padded vector of channels at a buffer's beginning."""
    place = axis % len(view.shape) if view.shape else 0
    alone = all(extent == 1 for index, extent in enumerate(view.shape) if index != place)
    return (
        bool(view.shape)
        and alone
        and view.dtype == "float32"
        and not view.offset
        and view.strides[place] == 1
    )


def _is_own(value: ir.Value, output: ir.Value, axis: int, views: Views) -> bool:
    """Whether an operand of a norm has the full shape or is a stored vector."""
    if value in views:
        return views[value].shape == shape_of(output)
    return is_vector_along(stored_shape(value), axis, shape_of(output))


def _operands(node: ir.Node) -> list[ir.Value] | None:
    """The operands of an op that there are steps for."""
    present = [one for one in node.inputs if one is not None]
    if node.op_type in NORMS:
        rank = len(shape_of(node.outputs[0]))
        last = node.attributes.get_int("axis", -1) % rank == rank - 1
        used = any(one.uses() or one.is_graph_output() for one in node.outputs[1:])
        return present if last and not used else None
    if node.op_type in UNARY:
        return present[:1]
    if node.op_type in HEADS:
        return present[:1] if numbered(node) is not None else None
    if node.op_type in (*BINARY, "Div") and len(present) == 2:
        return present
    return None


def _usable(value: ir.Value, output: ir.Value, views: Views) -> bool:
    if value in views:
        return views[value].dtype == "float32" and len(views[value].shape) <= len(shape_of(output))
    return is_stored(value) and value.dtype == ir.DataType.FLOAT


def numbered(node: ir.Node) -> ChainStep | None:
    """The step of an op with numbers for parameters."""
    if node.op_type == "HardSwish":
        return ChainStep("hard_swish")
    return NUMBERED[node.op_type](node)


@dataclass
class _Program:
    """A row program in the making."""

    table: TableBuilder
    output: ir.Value  # of the whole chain
    pixels: bool
    steps: list[Step] = field(default_factory=list)
    inputs: list[RowInput] = field(default_factory=list)
    buffers: list[int] = field(default_factory=list)
    vectors: list[int] = field(default_factory=list)
    known: dict[ir.Value, int] = field(default_factory=dict)

    @property
    def axis(self) -> int:
        """Of the columns."""
        return 1 if self.pixels else -1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the result."""
        return shape_of(self.output)

    @property
    def columns(self) -> int:
        """Of a row."""
        return self.shape[self.axis]

    def step(self, op: str, *arguments: int, index: int = 0, number: float = 0.0) -> int:
        """Append a step; its index."""
        self.steps.append(Step(op, tuple(arguments), index, number))
        return len(self.steps) - 1

    def operand(self, value: ir.Value, site: str, *, norm: bool = False) -> int:
        """The step that reads `value`."""
        if value not in self.known:
            self.known[value] = self._operand(value, site, norm)
        return self.known[value]

    def _operand(self, value: ir.Value, site: str, norm: bool) -> int:
        computed = self.table.views.get(value)
        if computed is None:
            number = None if norm else number_of(value)
            if number is not None:
                return self.step("number", number=number)
            if is_vector_along(stored_shape(value), self.axis, self.shape):
                return self._vector(vector(self.table.shared, value, self.columns))
            return self._input(self._spread(whole(self.table.shared, value), site))
        if computed.shape == self.shape and self._fits(computed):
            return self._input(computed)
        if is_vector_along(computed.shape, self.axis, self.shape) and has_vector(computed, self.axis):
            return self._vector(computed.buffer)
        column = self._column(computed)
        return self._input(self._spread(computed, site)) if column is None else column

    def _fits(self, view: View) -> bool:
        return layout_of(view) == ("pixels" if self.pixels else "rows")

    def _vector(self, buffer: int) -> int:
        self.vectors.append(buffer)
        return self.step("vector", index=len(self.vectors) - 1)

    def _input(self, view: View) -> int:
        stride = row_of(view, self.pixels)[1]
        self.inputs.append(RowInput(stride, "all", view.offset))
        self.buffers.append(view.buffer)
        return self.step("input", index=len(self.inputs) - 1)

    def _column(self, view: View) -> int | None:
        """One number for each row."""
        if self.pixels or view.shape != (*self.shape[:-1], 1) or (found := view.rows()) is None:
            return None
        stride = found[1] if found[0] > 1 else 1
        self.inputs.append(RowInput(stride, "all", view.offset, broadcast=True))
        self.buffers.append(view.buffer)
        return self.step("input", index=len(self.inputs) - 1)

    def _spread(self, view: View, site: str) -> View:
        """`view` repeated to the result's shape, in its layout."""
        lacking = len(self.shape) - len(view.shape)
        extents = (1,) * lacking + view.shape
        strides = (0,) * lacking + view.strides
        strides = tuple(0 if one == 1 else stride for one, stride in zip(extents, strides, strict=True))
        source = View(view.buffer, view.dtype, self.shape, strides, view.offset)
        result = self.table.new("float32", self.shape, self._strides())
        copy_into(self.table, source, result, site)
        return result

    def _strides(self) -> tuple[int, ...]:
        return pixel_strides(self.shape) if self.pixels else row_strides(self.shape)

    def chain(self, step: ChainStep, value: int, operand: int | None) -> int:
        """The steps of one link of a chain."""
        if operand is not None:
            return self.step(step.op, value, operand)
        if step.op == "affine":
            return self._affine(value, step.a, step.b)
        if step.op == "clip":
            return self._clip(value, step.a, step.b)
        if step.op == "hard_sigmoid":
            return self._clip(self._affine(value, step.a, step.b), 0.0, 1.0)
        if step.op == "hard_swish":
            return self.step("multiply", value, self._clip(self._affine(value, 1 / 6, 0.5), 0.0, 1.0))
        if step.op == "leaky_relu":
            low = self.step("minimum", value, self.step("number", number=0.0))
            scaled = self.step("multiply", low, self.step("number", number=step.a))
            return self.step("add", self.step("relu", value), scaled)
        if step.op == "power":
            return self.step("power_of_number", value, number=step.a)
        return self.step(step.op, value)

    def _affine(self, value: int, factor: float, summand: float) -> int:
        if factor != 1.0:
            value = self.step("multiply", value, self.step("number", number=factor))
        return self.step("add", value, self.step("number", number=summand)) if summand else value

    def _clip(self, value: int, low: float, high: float) -> int:
        if high != float("inf"):
            value = self.step("minimum", value, self.step("number", number=high))
        return self.step("maximum", value, self.step("number", number=low)) if low != float("-inf") else value


def row_of(view: View, pixels: bool) -> tuple[int, int]:
    """(how many rows, elements from row to row)."""
    found = (pixel_rows(view) if pixels else view).rows()
    assert found is not None, "checked"
    return found


def _append(
    table: TableBuilder, node: ir.Node, operands: list[ir.Value], links: list[Link], pixels: bool
) -> None:
    output = links[-1].output if links else node.outputs[0]
    program, site = _Program(table, output, pixels), site_of(node)
    norm = node.op_type in NORMS
    arguments = [program.operand(one, site, norm=norm) for one in operands]
    last = _head(program, node, arguments)
    for link in links:
        operand = None if link.operand is None else program.operand(link.operand, site)
        last = program.chain(link.step, last, operand)
    if last != len(program.steps) - 1:
        program.step("add", last, program.step("number", number=0.0))
    result = table.pixels(output) if pixels else table.rows(output)
    count, stride = row_of(result, pixels)
    kernel = RowProgram(
        program.columns,
        tuple(program.inputs),
        len(program.vectors),
        tuple(program.steps),
        stride if count > 1 else padded(program.columns),
        "all",
    )
    scratch = [table.shared.private(4 * kernel.padded) for _ in kernel.norms]
    stage = [*program.buffers, *program.vectors, *scratch, result.buffer]
    table.add(kernel, stage, site, writes=[result.buffer], count=count)


def _head(program: _Program, node: ir.Node, arguments: list[int]) -> int:
    """The step that is the node itself."""
    if node.op_type in NORMS:
        return program.step(
            NORMS[node.op_type], *arguments, number=node.attributes.get_float("epsilon", 1e-5)
        )
    if node.op_type in HEADS:
        step = numbered(node)
        assert step is not None, "checked"
        return program.chain(step, arguments[0], None)
    op = UNARY.get(node.op_type) or ({**BINARY, "Div": "divide"})[node.op_type]
    return program.step(op, *arguments)
