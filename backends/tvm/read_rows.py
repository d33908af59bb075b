"""Reading a `Rowwise` call: the ops of its body → the steps of a row program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import onnx_ir as ir

from intaglio.backends.tvm.function_values import Body, Unreadable
from intaglio.backends.tvm.operators import BINARY, UNARY
from intaglio.backends.tvm.regions import RowOperand, RowRegion
from intaglio.compiler.ir import DOMAIN, producer_of
from intaglio.kernels.row_program.program import Step

SIMPLE = {**UNARY, **BINARY, "Div": "divide"}


def read_rows(body: Body) -> RowRegion:
    """The row program that the call asks for; raises `Unreadable` for what a program has no step for."""
    (result,) = body.function.outputs
    columns = _columns(result)
    reader = _Reader(body, columns)
    reader.step_of(result)
    (output,) = body.call.outputs
    return RowRegion(
        body.site, columns, tuple(reader.operands), tuple(reader.vectors), tuple(reader.steps), output
    )


@dataclass
class _Reader:
    """Steps so far, and which step computes which value of the body."""

    body: Body
    columns: int
    steps: list[Step] = field(default_factory=list)
    operands: list[RowOperand] = field(default_factory=list)
    vectors: list[ir.Value] = field(default_factory=list)
    known: dict[ir.Value, int] = field(default_factory=dict)

    def step_of(self, value: ir.Value | None) -> int:
        """The index of the step that computes `value`."""
        if value is None:
            raise Unreadable("a row program has no step for a missing input")
        if value not in self.known:
            self.known[value] = self._read(value)
        return self.known[value]

    def _read(self, value: ir.Value) -> int:
        if (number := self.body.number(_uncast(value))) is not None:
            return self._add(Step("number", number=number))
        if self.body.constant(_uncast(value)) is not None:
            return self._vector(value)
        node = value.producer()
        if node is None or node.op_type in ("Split", "Slice"):
            return self._operand(value, node)
        return self._computed(node)

    def _add(self, step: Step) -> int:
        if step not in self.steps:
            self.steps.append(step)
        return self.steps.index(step)

    def _vector(self, value: ir.Value) -> int:
        stored = self.body.stored(value)
        if stored not in self.vectors:
            self.vectors.append(stored)
        return self._add(Step("vector", index=self.vectors.index(stored)))

    def _operand(self, value: ir.Value, view: ir.Node | None) -> int:
        source = value if view is None else view.inputs[0]
        offset = 0 if view is None else _first_column(self.body, view, value)
        operand = RowOperand(self.body.fed(source), offset, _columns(value) == 1 < self.columns)
        if operand not in self.operands:
            self.operands.append(operand)
        return self._add(Step("input", index=self.operands.index(operand)))

    def _computed(self, node: ir.Node) -> int:
        if node.op_type in SIMPLE and not node.domain:
            return self._folded(SIMPLE[node.op_type], [self.step_of(one) for one in node.inputs])
        special: dict[str, Callable[[ir.Node], int]] = {
            "Identity": lambda node: self.step_of(node.inputs[0]),
            "Cast": lambda node: self.step_of(node.inputs[0]),
            "Gelu": self._gelu,
            "Swish": self._swish,
            "SwiGLU": lambda node: self._gated(node, "silu"),
            "GeGLU": lambda node: self._gated(node, _gelu_step(node)),
            "Pow": self._power,
            "Clip": self._clip,
            "RMSNormalization": lambda node: self._norm(node, "rms_norm"),
            "LayerNormalization": lambda node: self._norm(node, "layer_norm"),
        }
        if node.op_type not in special or node.domain not in ("", DOMAIN):
            raise Unreadable(f"a row program has no step for {node.op_type}")
        return special[node.op_type](node)

    def _folded(self, op: str, arguments: list[int]) -> int:
        """Ops of any number of inputs are binary steps one after another."""
        if len(arguments) <= 2:
            return self._add(Step(op, tuple(arguments)))
        return self._folded(op, [self._add(Step(op, tuple(arguments[:2]))), *arguments[2:]])

    def _gelu(self, node: ir.Node) -> int:
        return self._add(Step(_gelu_step(node), (self.step_of(node.inputs[0]),)))

    def _swish(self, node: ir.Node) -> int:
        x, alpha = self.step_of(node.inputs[0]), node.attributes.get_float("alpha", 1.0)
        if alpha == 1.0:
            return self._add(Step("silu", (x,)))
        scaled = self._add(Step("multiply", (x, self._add(Step("number", number=alpha)))))
        return self._add(Step("multiply", (x, self._add(Step("logistic", (scaled,))))))

    def _gated(self, node: ir.Node, activation: str) -> int:
        gate, up = (self.step_of(one) for one in node.inputs)
        return self._add(Step("multiply", (self._add(Step(activation, (gate,))), up)))

    def _power(self, node: ir.Node) -> int:
        exponent = self.body.number(node.inputs[1])
        if exponent is None:
            raise Unreadable("a row program has no step for a power whose exponent is computed")
        x = self.step_of(node.inputs[0])
        if exponent == 2.0:
            return self._add(Step("square", (x,)))
        return self._add(Step("power_of_number", (x,), number=exponent))

    def _clip(self, node: ir.Node) -> int:
        step = self.step_of(node.inputs[0])
        for op, bound in zip(("maximum", "minimum"), node.inputs[1:], strict=False):
            if bound is not None:
                step = self._add(Step(op, (step, self.step_of(bound))))
        return step

    def _norm(self, node: ir.Node, op: str) -> int:
        if node.attributes.get_int("axis", -1) not in (-1, 2):
            raise Unreadable(f"a row program has no step for {node.op_type} over more than a row")
        arguments = [self.step_of(one) for one in node.inputs if one is not None]
        epsilon = node.attributes.get_float("epsilon", 1e-5)
        return self._add(Step(op, tuple(arguments), number=epsilon))


def _uncast(value: ir.Value) -> ir.Value:
    cast = producer_of(value, "Cast")
    source = None if cast is None else cast.inputs[0]
    return source if source is not None else value


def _gelu_step(node: ir.Node) -> str:
    return "gelu_tanh" if node.attributes.get_string("approximate", "none") == "tanh" else "gelu_erf"


def _columns(value: ir.Value) -> int:
    last = None if value.shape is None else value.shape[-1]
    if not isinstance(last, int):
        raise Unreadable(f"{value.name} has no fixed number of columns")
    return last


def _first_column(body: Body, view: ir.Node, value: ir.Value) -> int:
    """Where the columns that `view` takes begin."""
    if view.op_type == "Slice":
        start = body.number(view.inputs[1])
        width = _columns(body.fed(view.inputs[0]))
        if start is None:
            raise Unreadable("a row program has no step for a slice that is computed")
        return int(start) if start >= 0 else width + int(start)
    sizes = body.integers(view.inputs[1] if len(view.inputs) > 1 else None)
    return sum((sizes or [_columns(one) for one in view.outputs])[: view.outputs.index(value)])
