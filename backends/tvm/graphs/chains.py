"""Element-wise nodes that follow a product become steps of its kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from intaglio.backends.tvm.graphs.builder import is_known, shape_of
from intaglio.backends.tvm.graphs.constants import is_stored, number_of, stored_shape
from intaglio.backends.tvm.graphs.nodes import input_at
from intaglio.backends.tvm.operators import BINARY, UNARY
from intaglio.kernels.chain.steps import ChainStep

MOST = 12  # steps after one product
STEPS = {**UNARY, "HardSwish": "hard_swish"}  # of one operand


@dataclass(frozen=True)
class Link:
    """Nodes of a chain that are one step together, and the value that the step reads from memory."""

    nodes: tuple[ir.Node, ...]
    step: ChainStep
    operand: ir.Value | None = None

    @property
    def output(self) -> ir.Value:
        """What the last node computes."""
        return self.nodes[-1].outputs[0]


@dataclass(frozen=True)
class Operands:
    """Which computed values a chain may read from memory."""

    full: Callable[[ir.Value], bool]  # of those of the chain's own shape
    vectors: Callable[[ir.Value], bool]  # of those with one value for each channel


def follow(value: ir.Value, axis: int, operands: Operands) -> list[Link]:
    """The chain of nodes after `value`, each the only reader of what comes before; `axis` has channels."""
    links: list[Link] = []
    while len(links) < MOST and not value.is_graph_output():
        link = _gate(value) or _link(value, axis, operands)
        if link is None:
            break
        links.append(link)
        value = link.output
    return links


def _link(value: ir.Value, axis: int, operands: Operands) -> Link | None:
    users = list(value.uses())
    if len(users) != 1:
        return None
    node = users[0].node
    if node.domain or len(node.outputs) != 1 or not is_known(node.outputs[0]):
        return None
    if shape_of(node.outputs[0]) != shape_of(value) or node.graph is not value.graph:
        return None
    if node.op_type in STEPS:
        return Link((node,), ChainStep(STEPS[node.op_type]))
    if node.op_type in NUMBERED:
        step = NUMBERED[node.op_type](node) if node.inputs[0] is value else None
        return None if step is None else Link((node,), step)
    return _binary(node, value, axis, operands)


def _binary(node: ir.Node, value: ir.Value, axis: int, operands: Operands) -> Link | None:
    if node.op_type not in (*BINARY, "Div") or len(node.inputs) != 2:
        return None
    first = node.inputs[0] is value
    other = node.inputs[1 if first else 0]
    if other is None or other is value:
        return None
    number = number_of(other)
    if number is not None and len(stored_shape(other)) <= len(shape_of(value)):
        step = _with_number(node.op_type, number, first)
        return None if step is None else Link((node,), step)
    if node.op_type == "Div" or (node.op_type == "Sub" and not first):
        return None
    op = BINARY[node.op_type]
    if is_stored(other):
        fits = is_vector_along(stored_shape(other), axis, shape_of(value))
        return Link((node,), ChainStep(op, over="image"), other) if fits else None
    if not is_known(other):
        return None
    if is_vector_along(shape_of(other), axis, shape_of(value)) and operands.vectors(other):
        return Link((node,), ChainStep(op, over="image"), other)
    if shape_of(other) == shape_of(value) and operands.full(other):
        return Link((node,), ChainStep(op), other)
    return None


def _gate(value: ir.Value) -> Link | None:
    """`x · sigmoid(x)`, `x · hard_sigmoid(x)` and `x · clip(x + 3, 0, 6) / 6`, however they are spelled."""
    users = {use.node for use in value.uses()}
    if len(users) != 2:
        return None
    for product in users:
        if product.op_type == "Mul" and not product.domain:
            (other,) = users - {product}
            if (link := _gate_of(value, other, product)) is not None:
                return link
    return None


def _gate_of(value: ir.Value, first: ir.Node, product: ir.Node) -> Link | None:
    share = product.inputs[1 if product.inputs[0] is value else 0]
    if first.op_type == "Sigmoid" and share is first.outputs[0] and _private(share):
        return Link((first, product), ChainStep("silu"))
    if first.op_type == "HardSigmoid" and share is first.outputs[0] and _private(share):
        step = _hard_sigmoid(first)
        swish = abs(step.a - 1 / 6) < 1e-4 and abs(step.b - 0.5) < 1e-6
        return Link((first, product), ChainStep("hard_swish")) if swish else None
    return _spelled_hard_swish(value, first, product)


def _spelled_hard_swish(value: ir.Value, first: ir.Node, product: ir.Node) -> Link | None:
    """`x + 3`, clipped to 0 … 6, divided by 6 before or after the product with x."""
    nodes = [first]
    if first.op_type != "Add" or not _constants(first, value, 3.0):
        return None
    clip = _sole_reader(first.outputs[0])
    if clip is None or clip.op_type != "Clip" or _clip(clip) != ChainStep("clip", 0.0, 6.0):
        return None
    nodes.append(clip)
    after = _sole_reader(clip.outputs[0])
    if after is not None and after is not product and _is_sixth(after, clip.outputs[0]):
        nodes.append(after)
        return (
            Link((*nodes, product), ChainStep("hard_swish"))
            if _sole_reader(after.outputs[0]) is product
            else None
        )
    if after is not product or product.outputs[0].is_graph_output():
        return None
    last = _sole_reader(product.outputs[0])
    if last is None or not _is_sixth(last, product.outputs[0]):
        return None
    return Link((*nodes, product, last), ChainStep("hard_swish"))


def _is_sixth(node: ir.Node, value: ir.Value) -> bool:
    """Whether `node` divides `value` by 6."""
    if node.op_type == "Div":
        return node.inputs[0] is value and number_of(node.inputs[1]) == 6.0
    return node.op_type == "Mul" and any(
        _constants(node, value, one) for one in (1 / 6, float(np.float32(1 / 6)))
    )


def _constants(node: ir.Node, value: ir.Value, number: float) -> bool:
    others = [one for one in node.inputs if one is not value]
    return len(others) == 1 and number_of(others[0]) == number


def _private(value: ir.Value | None) -> bool:
    return value is not None and len(value.uses()) == 1 and not value.is_graph_output()


def _sole_reader(value: ir.Value) -> ir.Node | None:
    return next(iter(value.uses())).node if _private(value) else None


def is_vector_along(shape: tuple[int, ...], axis: int, whole: tuple[int, ...]) -> bool:
    """Whether an operand of `shape` has one value for each channel of `whole`, or one for all."""
    full = (1,) * (len(whole) - len(shape)) + shape
    place = axis % len(whole)
    return len(full) == len(whole) and all(
        extent == (whole[index] if index == place else 1) for index, extent in enumerate(full)
    )


def _with_number(op_type: str, number: float, first: bool) -> ChainStep | None:
    if op_type == "Add":
        return ChainStep("affine", 1.0, number)
    if op_type == "Mul":
        return ChainStep("affine", number, 0.0)
    if op_type == "Sub":
        return ChainStep("affine", 1.0, -number) if first else ChainStep("affine", -1.0, number)
    if op_type == "Div" and first and number:
        return ChainStep("affine", 1.0 / number, 0.0)
    if op_type == "Max":
        return ChainStep("clip", number, float("inf"))
    if op_type == "Min":
        return ChainStep("clip", float("-inf"), number)
    return None


def _gelu(node: ir.Node) -> ChainStep:
    return ChainStep(
        "gelu_tanh" if node.attributes.get_string("approximate", "none") == "tanh" else "gelu_erf"
    )


def _clip(node: ir.Node) -> ChainStep | None:
    limits = []
    for index, default in ((1, float("-inf")), (2, float("inf"))):
        value = input_at(node, index)
        number = default if value is None else number_of(value)
        if number is None:
            return None
        limits.append(number)
    return ChainStep("clip", limits[0], limits[1])


def _hard_sigmoid(node: ir.Node) -> ChainStep:
    alpha, beta = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
    return ChainStep("hard_sigmoid", alpha, beta)


def _leaky_relu(node: ir.Node) -> ChainStep:
    return ChainStep("leaky_relu", node.attributes.get_float("alpha", 0.01))


def _power(node: ir.Node) -> ChainStep | None:
    number = number_of(input_at(node, 1))
    return None if number is None else ChainStep("power", number)


NUMBERED: Mapping[str, Callable[[ir.Node], ChainStep | None]] = {
    "Gelu": _gelu,
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": _leaky_relu,
    "Pow": _power,
}
