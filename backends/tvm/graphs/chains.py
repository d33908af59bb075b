"""Element-wise nodes that follow a product become steps of its kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.backends.tvm.graphs.builder import is_known, shape_of
from intaglio.backends.tvm.graphs.constants import is_stored, number_of, stored_shape
from intaglio.kernels.chain.steps import ChainStep
from intaglio.passes.rewriting import input_at

MOST = 12  # steps after one product
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
    "HardSwish": "hard_swish",
}
BINARY = {"Add": "add", "Sub": "subtract", "Mul": "multiply", "Max": "maximum", "Min": "minimum"}


@dataclass(frozen=True)
class Link:
    """One node of a chain: its step, and the value that the step reads from memory."""

    node: ir.Node
    step: ChainStep
    operand: ir.Value | None = None


def follow(value: ir.Value, axis: int, accepts: Callable[[ir.Value], bool]) -> list[Link]:
    """The chain of nodes after `value`, each the only reader of what comes before.

    `axis` is that of the channels; `accepts` says whether a computed operand of the full shape may be read.
    """
    links: list[Link] = []
    while len(links) < MOST:
        link = _link(value, axis, accepts)
        if link is None or value.is_graph_output():
            break
        links.append(link)
        value = link.node.outputs[0]
    return links


def _link(value: ir.Value, axis: int, accepts: Callable[[ir.Value], bool]) -> Link | None:
    users = list(value.uses())
    if len(users) != 1:
        return None
    node = users[0].node
    if node.domain or len(node.outputs) != 1 or not is_known(node.outputs[0]):
        return None
    if shape_of(node.outputs[0]) != shape_of(value):
        return None
    if node.op_type in UNARY:
        return Link(node, ChainStep(UNARY[node.op_type]))
    if node.op_type in _NUMBERED:
        step = _NUMBERED[node.op_type](node)
        return None if step is None else Link(node, step)
    return _binary(node, value, axis, accepts)


def _binary(
    node: ir.Node, value: ir.Value, axis: int, accepts: Callable[[ir.Value], bool]
) -> Link | None:
    if node.op_type not in (*BINARY, "Div") or len(node.inputs) != 2:
        return None
    first = node.inputs[0] is value
    other = node.inputs[1 if first else 0]
    if other is None or other is value:
        return None
    number = number_of(other)
    if number is not None and other.shape is not None and len(other.shape) <= len(shape_of(value)):
        step = _with_number(node.op_type, number, first)
        return None if step is None else Link(node, step)
    if node.op_type == "Div" or (node.op_type == "Sub" and not first):
        return None
    op = BINARY[node.op_type]
    if is_stored(other):
        if not is_vector_along(stored_shape(other), axis, shape_of(value)):
            return None
        return Link(node, ChainStep(op, over="image"), other)
    if not is_known(other) or shape_of(other) != shape_of(value) or not accepts(other):
        return None
    return Link(node, ChainStep(op), other)


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
    return ChainStep("gelu_tanh" if node.attributes.get_string("approximate", "none") == "tanh" else "gelu_erf")


def _clip(node: ir.Node) -> ChainStep | None:
    limits = []
    for index, default in ((1, float("-inf")), (2, float("inf"))):
        value = input_at(node, index)
        number = default if value is None else number_of(value)
        if number is None:
            return None
        limits.append(number)
    return ChainStep("clip", *limits)


def _hard_sigmoid(node: ir.Node) -> ChainStep:
    alpha, beta = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
    return ChainStep("hard_sigmoid", alpha, beta)


def _leaky_relu(node: ir.Node) -> ChainStep:
    return ChainStep("leaky_relu", node.attributes.get_float("alpha", 0.01))


def _power(node: ir.Node) -> ChainStep | None:
    number = number_of(input_at(node, 1))
    return None if number is None else ChainStep("power", number)


_NUMBERED: Mapping[str, Callable[[ir.Node], ChainStep | None]] = {
    "Gelu": _gelu,
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": _leaky_relu,
    "Pow": _power,
}
