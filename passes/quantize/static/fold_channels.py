"""Arithmetic per channel after a convolution, folded into its weights and bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.compiler.ir.builder import GraphBuilder
from intaglio.passes.result import Applied, PassResult
from intaglio.passes.rewriting import bypass, constant, input_at, remove_unused, site_of

LARGEST = 1 << 26  # elements of a weight; larger ones are left alone
CONVOLUTIONS = ("Conv", "ConvTranspose")
Float = NDArray[np.float32]
Scaling = tuple[NDArray[np.float64], NDArray[np.float64]]  # factor and offset per channel, float64


@dataclass(frozen=True)
class FoldChannels:
    """`f(Conv(x, W, b))` → `Conv(x, W', b')`, `f` one of

        Mul(·, c), Div(·, c), Add(·, c), Sub(·, c), BatchNormalization(·)

    with constants of one element or of one per channel; `ConvTranspose` alike. Chains fold one by one.
    In floating point runtimes do this themselves, but not once the weights are integers.

    Exceptions:
    1. The convolution's result is used elsewhere too, or is a graph output: it stays as it is.
    2. Weights or bias are no float32 constants, or the weight is shared: nothing is done.
    3. A constant varies along other axes than the channels, or is a divisor of zero: nothing is done.
    """

    name: str = "fold_channels"

    def __call__(self, model: ir.Model) -> PassResult:
        """Fold in the order of the graph."""
        applied = []
        for node in list(model.graph):
            convolution = _folds_into(node)
            scaling = None if convolution is None else _scaling(node, _channels(convolution))
            if convolution is None or scaling is None:
                continue
            _rescale(model.graph, convolution, *scaling)
            bypass(node.outputs[0], convolution.outputs[0])
            model.graph.remove(node, safe=True)
            applied.append(Applied(self.name, site_of(convolution), node.op_type))
        remove_unused(model)
        return PassResult(model, tuple(applied))


def weight_of(node: ir.Node) -> Float | None:
    """The float32 weight of a convolution, if it is a constant that no other node reads."""
    value = input_at(node, 1)
    if value is None or len(list(value.uses())) != 1:
        return None
    return _float(value)


def _float(value: ir.Value | None) -> Float | None:
    array = constant(value, LARGEST)
    return array.astype(np.float32, copy=False) if array is not None and array.dtype == np.float32 else None


def output_axis(node: ir.Node) -> int:
    """The axis of a convolution's weight along which its outputs (of a group) lie."""
    return 1 if node.op_type == "ConvTranspose" else 0


def _channels(node: ir.Node) -> int:
    weight, groups = weight_of(node), node.attributes.get_int("group", 1)
    assert weight is not None
    return int(weight.shape[1] * groups) if node.op_type == "ConvTranspose" else int(weight.shape[0])


def _folds_into(node: ir.Node) -> ir.Node | None:
    """The convolution whose only reader `node` is."""
    if node.domain or node.op_type not in ("Mul", "Div", "Add", "Sub", "BatchNormalization"):
        return None
    value = node.inputs[0]
    producer = None if value is None else value.producer()
    if value is None or producer is None or producer.domain or producer.op_type not in CONVOLUTIONS:
        return None
    if value.is_graph_output() or len(list(value.uses())) != 1:  # exception 1
        return None
    bias = input_at(producer, 2)
    if weight_of(producer) is None or (bias is not None and _float(bias) is None):  # exception 2
        return None
    return producer


def _scaling(node: ir.Node, channels: int) -> Scaling | None:
    if node.op_type == "BatchNormalization":
        return _normalization(node)
    operand = _per_channel(node.inputs[1], node.inputs[0], channels)
    if operand is None or (node.op_type == "Div" and not operand.all()):  # exception 3
        return None
    one, zero = np.ones(channels), np.zeros(channels)
    return {
        "Mul": (operand, zero),
        "Div": (one / np.where(operand == 0, 1, operand), zero),
        "Add": (one, operand),
        "Sub": (one, -operand),
    }[node.op_type]


def _normalization(node: ir.Node) -> Scaling | None:
    arrays = [_float(one) for one in node.inputs[1:]]
    if (
        any(one is None for one in arrays)
        or len(node.outputs) != 1
        or node.attributes.get_int("training_mode", 0) != 0
    ):
        return None
    scale, bias, mean, variance = (one.astype(np.float64) for one in arrays if one is not None)
    factor = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    return factor, bias - mean * factor


def _per_channel(
    value: ir.Value | None, result: ir.Value | None, channels: int
) -> NDArray[np.float64] | None:
    """A constant of one element, or one of `[C, 1, …]` with as many ones as there are spatial axes."""
    array = _float(value)
    if array is None:
        return None
    if array.size == 1:
        return np.full(channels, float(array.reshape(-1)[0]))
    producer = None if result is None else result.producer()
    weight = None if producer is None else weight_of(producer)
    spatial = 0 if weight is None else weight.ndim - 2
    shape = array.shape[1:] if array.ndim == spatial + 2 and array.shape[0] == 1 else array.shape
    return array.reshape(-1).astype(np.float64) if shape == (channels, *[1] * spatial) else None


def _rescale(
    graph: ir.Graph, node: ir.Node, factor: NDArray[np.float64], offset: NDArray[np.float64]
) -> None:
    weight, bias = weight_of(node), _float(input_at(node, 2))
    assert weight is not None
    builder, name = GraphBuilder.extend(graph, before=node), site_of(node)
    scaled = (weight * _along_outputs(node, weight, factor)).astype(np.float32)
    moved = (offset if bias is None else bias * factor + offset).astype(np.float32)
    node.replace_input_with(1, builder.initializer(f"{name}.weight", scaled))
    added = builder.initializer(f"{name}.bias", moved)
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, added)


def _along_outputs(node: ir.Node, weight: Float, factor: NDArray[np.float64]) -> NDArray[np.float64]:
    """`factor` so that it multiplies `weight`; a transposed one is `[in, out / groups, …]`."""
    spatial = [1] * (weight.ndim - 2)
    if node.op_type == "Conv":
        return factor.reshape(-1, 1, *spatial)
    groups = node.attributes.get_int("group", 1)
    per_group = factor.reshape(groups, 1, weight.shape[1])
    return np.repeat(per_group, weight.shape[0] // groups, 1).reshape(*weight.shape[:2], *spatial)
