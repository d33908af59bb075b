"""Types and shapes of all values, by onnx's own inference; a contradiction between types is an error."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from intaglio.compiler.errors import ModelFileError
from intaglio.compiler.frontends.onnx.loading import without_weights


def infer(model: ir.Model, *, name: str) -> None:
    """Fill in types and shapes that `model`, which messages call `name`, leaves open; weights are not read.

    What the model states stays, sizes it leaves open are filled in. Raises `ModelFileError` for a value of a
    type that its op does not take.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(without_weights(model), check_type=True, data_prop=True)
    except (
        Exception
    ) as error:  # InferenceError for types that do not fit, others for numbers without a meaning
        raise ModelFileError(
            f"onnx: the types in {name} do not fit together: {_innermost(error)}; export it again."
        ) from error
    found = ir.serde.deserialize_model(inferred)
    for graph, other in zip(model.graphs(), found.graphs(), strict=True):
        known = ir.convenience.create_value_mapping(other)
        for label, value in ir.convenience.create_value_mapping(graph).items():
            if label in known:
                _fill(value, known[label])


def _fill(value: ir.Value, other: ir.Value) -> None:
    value.type = value.type or other.type
    if other.shape is None:
        return
    if value.shape is None:
        value.shape = ir.Shape(one if isinstance(one, int) else None for one in other.shape)
        return
    if value.shape.frozen or len(value.shape) != len(other.shape):
        return
    for axis, (size, better) in enumerate(zip(value.shape, other.shape, strict=True)):
        if not isinstance(size, int) and size.value is None and isinstance(better, int):
            value.shape[axis] = better


def _innermost(error: BaseException) -> BaseException:
    return error if error.__cause__ is None else _innermost(error.__cause__)
