"""Shapes and types that a graph leaves unsaid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from intaglio.passes.result import Applied, Declined, PassResult

STRUCTURE = 1024  # elements; larger initialisers are weights, whose values no shape depends on


@dataclass(frozen=True)
class InferShapes:
    """Values without a shape or type get those that onnx infers; what is there stays.

    Weights are neither copied nor read. Values after ops that onnx does not know stay without a shape; where
    inference fails as a whole, that is declined.
    """

    name: str = "infer_shapes"

    def __call__(self, model: ir.Model) -> PassResult:
        """Infer once, if anything is missing."""
        missing = {str(one.name): one for one in _unknown(model.graph)}
        if not missing:
            return PassResult(model)
        try:
            proto = onnx.shape_inference.infer_shapes(ir.to_proto(_light(model)), data_prop=True)
        except Exception as error:  # whatever onnx makes of a model that is not quite right
            return PassResult(model, declined=(Declined(self.name, "model", f"onnx: {error}"),))
        inferred = (*proto.graph.value_info, *proto.graph.output)
        found = [_describe(missing[one.name], one) for one in inferred if one.name in missing]
        detail = f"{sum(found)} of {len(missing)} values"
        return PassResult(model, (Applied(self.name, "model", detail),) if any(found) else ())


def _unknown(graph: ir.Graph) -> Iterator[ir.Value]:
    for node in graph:
        yield from (one for one in node.outputs if one.shape is None or one.type is None)


def _light(model: ir.Model) -> ir.Model:
    """A copy with inputs in the place of weights."""
    copy = model.clone()
    for value in list(copy.graph.initializers.values()):
        tensor = value.const_value
        if tensor is not None and tensor.size > STRUCTURE:
            del copy.graph.initializers[str(value.name)]
            value.const_value = None
            if not value.is_graph_input():
                copy.graph.inputs.append(value)
    return copy


def _describe(value: ir.Value, info: onnx.ValueInfoProto) -> bool:
    inferred = ir.serde.deserialize_value_info_proto(info, None)
    before = (value.shape, value.type)
    value.shape = inferred.shape if value.shape is None else value.shape
    value.type = inferred.type if value.type is None else value.type
    return (value.shape, value.type) != before
