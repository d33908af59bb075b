"""Work on rows `[batch · sequence, K]` done on `[batch, sequence, K]` instead."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from intaglio.passes.result import Applied, PassResult
from intaglio.passes.rewriting import (
    bypass,
    described,
    input_at,
    insert,
    integers,
    is_op,
    made_by,
    rank,
    remove_unused,
    sizes,
    take_over,
)

BINARY = ("Add", "Sub", "Mul", "Div", "Pow")
ELEMENTWISE = (*BINARY, "Relu", "Gelu", "Erf", "Tanh", "Sigmoid", "Swish", "Cast", "Neg")
ALONG_ROWS = ("LayerNormalization", "RMSNormalization", "Softmax")


@dataclass(frozen=True)
class LiftRows:
    """`Reshape(f(Reshape(x, [-1, K])), [batch, sequence, N])` → `f(x)`, `f` being whatever works row by row.

    That is elementwise arithmetic, norms along the last axis, and `MatMul` with a matrix on the right.

    Exceptions:
    1. Another input of `f` is neither a constant of at most one axis nor lifted from the same leading axes:
       `f` and what follows stay on rows.
    2. Somebody else reads the rows: a `Reshape` of the lifted value stays for them.
    3. The leading axes of `x` are unknown, or `x` has less than three axes: nothing is lifted.
    """

    name: str = "lift_rows"

    def __call__(self, model: ir.Model) -> PassResult:
        """Follow every flattened value as far as it goes."""
        lifter = _Lifter()
        for node in list(model.graph):
            lifter.follow(node)
        lifter.settle()
        remove_unused(model)
        applied = (Applied(self.name, one, "on whole sequences") for one in lifter.lifted)
        return PassResult(model, tuple(applied))


@dataclass
class _Lifter:
    whole: dict[ir.Value, ir.Value] = field(default_factory=dict)  # rows → the same with leading axes
    lifted: list[str] = field(default_factory=list)

    def follow(self, node: ir.Node) -> None:
        """Lift `node` if it works on rows; end the detour if it leads back."""
        if node.domain:
            return
        source = node.inputs[0] if node.inputs else None
        if is_op(node, "Reshape") and source is not None:
            self._reshape(node, source)
        elif node.op_type in (*ELEMENTWISE, *ALONG_ROWS, "MatMul") and self._is_liftable(node):
            self._lift(node)

    def _reshape(self, node: ir.Node, source: ir.Value) -> None:
        result, target = node.outputs[0], integers(input_at(node, 1))
        if source in self.whole:
            self._back(node, self.whole[source])
        elif len(leading := _leading(source, target)) > 1:
            self.whole[result] = _joined(node, source, leading)

    def _back(self, node: ir.Node, whole: ir.Value) -> None:
        target = integers(input_at(node, 1))
        if sizes(node.outputs[0]) == sizes(whole) and None not in (sizes(whole) or [None]):
            if bypass(node.outputs[0], whole):
                self.lifted.append(whole.name or "")
        elif target is None or 0 not in target:  # an axis that is copied would be another one
            node.replace_input_with(0, whole)

    def _is_liftable(self, node: ir.Node) -> bool:
        if node.op_type in ALONG_ROWS and node.attributes.get_int("axis", -1) not in (-1, 1):
            return False
        if not self.whole.keys() & set(node.inputs) or len(node.outputs) != 1:
            return False
        if node.op_type == "MatMul":
            return node.inputs[0] in self.whole and _is_turned_weight(node.inputs[1])
        leading = {tuple((sizes(self.whole[one]) or [])[:-1]) for one in node.inputs if one in self.whole}
        return len(leading) == 1 and all(one in self.whole or _is_vector(one) for one in node.inputs)

    def _lift(self, node: ir.Node) -> None:
        inputs = [self.whole.get(one, one) if one is not None else None for one in node.inputs]
        attributes = {name: one for name, one in node.attributes.items() if name != "axis"}
        if node.op_type in ALONG_ROWS:
            attributes["axis"] = ir.AttrInt64("axis", -1)
        lifted = insert(node, node.op_type, inputs, name=None)
        lifted.attributes.update(attributes)
        lifted.metadata_props.update(node.metadata_props)
        old, new = node.outputs[0], lifted.outputs[0]
        shape = next(sizes(self.whole[one]) for one in node.inputs if one in self.whole) or []
        columns = (sizes(node.inputs[1]) or [None])[-1] if node.op_type == "MatMul" else shape[-1]
        described(old, new, [*shape[:-1], columns])
        self.whole[old] = new

    def settle(self) -> None:
        """Flatten again for whoever still reads rows, and hand names on."""
        for rows, whole in self.whole.items():
            made = rows.producer()
            if made is None or is_op(made, "Reshape"):
                continue
            if self._needs_rows(rows):
                self._flatten(rows, whole, made)
            else:
                _hand_names_over(made, whole)

    def _needs_rows(self, rows: ir.Value) -> bool:
        return rows.is_graph_output() or any(
            not is_op(one, "Reshape") and not (one.outputs and one.outputs[0] in self.whole)
            for one in rows.consumers()
        )

    def _flatten(self, rows: ir.Value, whole: ir.Value, made: ir.Node) -> None:
        columns = (sizes(whole) or [None])[-1]
        assert isinstance(columns, int), "only rows of known size are lifted"
        tensor = ir.tensor([-1, columns], dtype=ir.DataType.INT64)
        target = insert(made, "Constant", [], {"value": tensor}).outputs[0]
        flat = insert(made, "Reshape", [whole, target]).outputs[0]
        take_over(rows, flat)


def _hand_names_over(old: ir.Node, whole: ir.Value) -> None:
    new = whole.producer()
    assert new is not None, "lifted nodes make their values"
    name, value = old.name, old.outputs[0].name
    old.name, old.outputs[0].name = f"{name}.superseded", f"{value}.superseded"
    new.name = name
    if not whole.is_graph_output():
        whole.name = value


def _leading(source: ir.Value, target: list[int] | None) -> list[int | str | None]:
    """The axes that a `Reshape` to `[-1, K]` makes one of; fewer than two where there is nothing to lift."""
    shape = sizes(source)
    if target is None or shape is None or None in shape or len(target) != 2 or target[0] != -1:
        return []
    columns, count = 1, len(shape)
    while count > 0 and columns != target[1]:
        count -= 1
        size = shape[count]
        if not isinstance(size, int):
            return []
        columns *= size
    return shape[:count] if columns == target[1] else []


def _joined(node: ir.Node, source: ir.Value, leading: list[int | str | None]) -> ir.Value:
    """`source` with its last axes joined."""
    columns = (integers(input_at(node, 1)) or [])[-1]
    if sizes(source) == [*leading, columns]:
        return source
    tensor = ir.tensor([0] * len(leading) + [columns], dtype=ir.DataType.INT64)
    target = insert(node, "Constant", [], {"value": tensor}).outputs[0]
    joined = insert(node, "Reshape", [source, target]).outputs[0]
    return described(source, joined, [*leading, columns])


def _is_turned_weight(value: ir.Value | None) -> bool:
    return made_by(value, "Transpose") is not None and rank(value) == 2


def _is_vector(value: ir.Value | None) -> bool:
    if value is None or value.is_graph_input():
        return value is None
    tensor = ir.convenience.get_const_tensor(value)
    return tensor is not None and len(tensor.shape) <= 1
