"""Small index and mask computations become constants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from intaglio.passes.result import Applied, PassResult
from intaglio.passes.rewriting import SMALL, constant, insert, remove_unused, supersede

PLAIN = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)
NEVER = (
    *("Constant", "QuantizeLinear", "DequantizeLinear", "Bernoulli", "Multinomial"),
    *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
)


@dataclass(frozen=True)
class FoldConstants:
    """`f(c₁, c₂, …)` → the constant that it is, for standard ops over constants.

    Exceptions:
    1. A float initialiser of more than one element, or one of 4-bit or 8-bit codes, is a weight, and what is
       computed from it stays computed: no dequantised or transposed weight is ever stored.
    2. A result of more than `limit` elements is not stored.
    3. Ops of several outputs, ops with subgraphs, and random ops stay.
    4. `Shape` of a value whose sizes are all known is folded although the value is not constant.
    """

    limit: int = SMALL
    name: str = "fold_constants"

    def __call__(self, model: ir.Model) -> PassResult:
        """Fold in the order of the graph, so that folded values take part in later folds."""
        applied = []
        for node in list(model.graph):
            array = self._value(node, model.graph.opset_imports[""])
            if array is None:
                continue
            folded = insert(node, "Constant", [], {"value": ir.tensor(array)})
            supersede(node, folded)
            applied.append(Applied(self.name, folded.name or "", f"{node.op_type} → {list(array.shape)}"))
        remove_unused(model)
        return PassResult(model, tuple(applied))

    def _value(self, node: ir.Node, opset: int) -> NDArray[np.generic] | None:
        if node.domain or node.op_type in NEVER or len(node.outputs) != 1:
            return None
        if node.op_type == "Shape":
            return _known_shape(node)
        inputs = [None if one is None else _plain(one, self.limit) for one in node.inputs]
        missing = any(
            array is None and one is not None for array, one in zip(inputs, node.inputs, strict=True)
        )
        if missing or not inputs or _has_subgraph(node) or self._is_too_large(node, inputs):
            return None
        result = _evaluate(node, inputs, opset)
        return result if result.size <= self.limit else None

    def _is_too_large(self, node: ir.Node, inputs: list[NDArray[np.generic] | None]) -> bool:
        """Whether an op that takes its output's size from an input would exceed the limit."""
        sizes = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1}.get(node.op_type)
        wanted = None if sizes is None else inputs[sizes]
        if wanted is not None:
            return bool(np.prod(np.abs(wanted.astype(np.float64))) > self.limit)
        return False


def _plain(value: ir.Value, limit: int) -> NDArray[np.generic] | None:
    """The constant behind `value` unless it is a weight (exception 1)."""
    tensor = value.const_value
    if tensor is not None and tensor.dtype not in PLAIN and tensor.size > 1:
        return None
    return constant(value, limit)


def _known_shape(node: ir.Node) -> NDArray[np.int64] | None:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None or not shape.is_static():
        return None
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(shape))
    return np.array(shape.numpy()[start:end], np.int64)


def _has_subgraph(node: ir.Node) -> bool:
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(one.type in kinds for one in node.attributes.values())


def _evaluate(node: ir.Node, inputs: list[NDArray[np.generic] | None], opset: int) -> NDArray[np.generic]:
    """The value of a standard op by onnx's own reference implementation."""
    names = ["" if array is None else f"x{index}" for index, array in enumerate(inputs)]
    proto = onnx.helper.make_node(node.op_type, names, ["y"])
    proto.attribute.extend(ir.serde.serialize_attribute(one) for one in node.attributes.values())
    feeds = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    infos = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in feeds.items()
    ]
    graph = onnx.helper.make_graph([proto], "fold", infos, [onnx.helper.make_empty_tensor_value_info("y")])
    folded = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    (result,) = ReferenceEvaluator(folded).run(None, feeds)
    return np.asarray(result)
