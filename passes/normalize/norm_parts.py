"""The parts of a norm as exporters spell them out.

Each reader returns what it found, `None` where nothing is near, or a string that says why something near is
not it.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from intaglio.passes.rewriting import constant, input_at, integers, is_op, made_by, rank, scalar, sizes

DEPTH = 4  # nodes between the mean and its inverse root


@dataclass(frozen=True)
class Core:
    """`x / sqrt(mean(x²) + ε)`, with `x` perhaps centred on its own mean."""

    input: ir.Value  # before it was centred
    centered: bool
    epsilon: float
    normalized: ir.Node  # the product or quotient


@dataclass(frozen=True)
class Scaled:
    """A core with what follows: a cast back, a weight, a bias."""

    core: Core
    input: ir.Value  # before it was cast to float32, if the cast back is part of the norm
    weight: ir.Value | None
    bias: ir.Value | None
    last: ir.Node


def read_core(mean: ir.Node) -> Core | str | None:
    """The core around the mean of squares `mean`."""
    squared = _squared(mean.inputs[0])
    epsilon = _epsilon(mean.outputs[0])
    if squared is None or not _leads_to_root(mean.outputs[0]):
        return None
    axes, axis_count = _axes(mean), rank(squared)
    if axes not in ([-1], [None if axis_count is None else axis_count - 1]):
        return f"the mean of squares is over axes {axes}, not the last alone"
    if mean.attributes.get_int("keepdims", 1) != 1:
        return "the mean of squares drops the axis it is over"
    if epsilon is None:
        return "no constant is added to the mean of squares"
    normalized = _normalized(epsilon[1], squared, 1.0, DEPTH)
    if normalized is None:
        return f"the root is not what {squared.name} is divided by"
    source = _before_centering(squared)
    return Core(source or squared, source is not None, epsilon[0], normalized)


def scaled(core: Core) -> Scaled | str:
    """The norm with weight and bias."""
    value, source = core.normalized.outputs[0], core.input
    last, original = core.normalized, made_by(source, "Cast")
    back = _sole(value, "Cast")
    narrow = original.inputs[0] if original is not None else None
    if back is not None and narrow is not None and narrow.dtype == back.outputs[0].dtype:
        value, last, source = back.outputs[0], back, narrow
    weight, last = _operand(value, "Mul", last)
    value = last.outputs[0]
    bias, last = _operand(value, "Add", last) if core.centered else (None, last)
    if weight is None and not isinstance((sizes(core.input) or [None])[-1], int):
        return "it has no weight, and the size of its last axis is not known"
    return Scaled(core, source, weight, bias, last)


def same(first: ir.Value | None, second: ir.Value | None) -> bool:
    """Whether two values are one, or made by equal nodes of the same inputs."""
    if first is second or first is None or second is None:
        return first is second
    one, other = first.producer(), second.producer()
    if one is None or other is None or one.op_identifier() != other.op_identifier():
        return False
    attributes = [{name: str(a.value) for name, a in node.attributes.items()} for node in (one, other)]
    pairs = zip(one.inputs, other.inputs, strict=False)
    alike = attributes[0] == attributes[1] and len(one.inputs) == len(other.inputs)
    return alike and all(_same_constant(left, right) or same(left, right) for left, right in pairs)


def _same_constant(first: ir.Value | None, second: ir.Value | None) -> bool:
    one, other = constant(first, limit=64), constant(second, limit=64)
    return one is not None and other is not None and one.tolist() == other.tolist()


def _squared(value: ir.Value | None) -> ir.Value | None:
    power = made_by(value, "Pow")
    if power is not None and scalar(power.inputs[1]) == 2.0:
        return power.inputs[0]
    product = made_by(value, "Mul")
    if product is not None and same(product.inputs[0], product.inputs[1]):
        return product.inputs[0]
    return None


def _axes(mean: ir.Node) -> list[int | None] | list[int] | None:
    given = mean.attributes.get_ints("axes", None)
    return list(given) if given is not None else integers(input_at(mean, 1))


def _epsilon(mean: ir.Value) -> tuple[float, ir.Value] | None:
    """The constant added to the mean, and the sum."""
    for node in mean.consumers():
        if is_op(node, "Add"):
            others = [scalar(one) for one in node.inputs if one is not mean]
            if len(others) == 1 and others[0] is not None:
                return others[0], node.outputs[0]
    return None


def _leads_to_root(value: ir.Value, depth: int = DEPTH) -> bool:
    for node in value.consumers():
        if is_op(node, "Sqrt") or (is_op(node, "Pow") and scalar(node.inputs[1]) in (0.5, -0.5)):
            return True
        if depth and is_op(node, "Add") and _leads_to_root(node.outputs[0], depth - 1):
            return True
    return False


def _normalized(value: ir.Value, source: ir.Value, power: float, depth: int) -> ir.Node | None:
    """The node that multiplies `source` with `value ** -½`, `value` being the sum to the `power`."""
    for node in value.consumers():
        operands = list(node.inputs)
        if is_op(node, "Mul") and power == -0.5:
            others = [one for one in operands if one is not value]
            if len(others) == 1 and same(others[0], source):
                return node
        if is_op(node, "Div") and power == 0.5 and operands[1] is value and same(operands[0], source):
            return node
        next_power = _power(node, value)
        if next_power is not None and depth:
            found = _normalized(node.outputs[0], source, power * next_power, depth - 1)
            if found is not None:
                return found
    return None


def _power(node: ir.Node, value: ir.Value) -> float | None:
    """The exponent that `node` raises `value` to, if it does."""
    if is_op(node, "Sqrt"):
        return 0.5
    if is_op(node, "Reciprocal"):
        return -1.0
    if is_op(node, "Pow") and node.inputs[0] is value:
        return scalar(node.inputs[1])
    if is_op(node, "Div") and node.inputs[1] is value and scalar(node.inputs[0]) == 1.0:
        return -1.0
    return None


def _before_centering(value: ir.Value) -> ir.Value | None:
    """`x` where `value` is `x - mean(x)` along the last axis."""
    difference = made_by(value, "Sub")
    source = difference.inputs[0] if difference is not None else None
    mean = made_by(difference.inputs[1], "ReduceMean") if difference is not None else None
    if mean is None or source is None or not same(mean.inputs[0], source):
        return None
    count = rank(source)
    last = _axes(mean) in ([-1], [None if count is None else count - 1])
    return source if last and mean.attributes.get_int("keepdims", 1) == 1 else None


def _sole(value: ir.Value, op_type: str) -> ir.Node | None:
    """The only reader of `value`, if it is this op."""
    uses = tuple(value.uses())
    if len(uses) != 1 or value.is_graph_output() or not is_op(uses[0].node, op_type):
        return None
    return uses[0].node


def _operand(value: ir.Value, op_type: str, last: ir.Node) -> tuple[ir.Value | None, ir.Node]:
    """The weight or bias that the only reader of `value` applies, and that reader; or nothing, and `last`."""
    node = _sole(value, op_type)
    others = [one for one in node.inputs if one is not value] if node is not None else []
    if node is None or len(others) != 1 or not _is_row(others[0], value):
        return None, last
    return others[0], node


def _is_row(value: ir.Value | None, like: ir.Value) -> bool:
    """Whether `value` is a constant with one axis, as long as the last of `like`."""
    if value is None or value.is_graph_input():
        return False
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or len(tensor.shape) != 1:
        return False
    columns = (sizes(like) or [None])[-1]
    return tensor.size > 1 if columns is None else tensor.size == columns
