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
    if other.shape is None or value.is_initializer():
        return
    if value.shape is None:
        value.shape = ir.Shape(list(other.shape))
    elif len(value.shape) == len(other.shape):
        value.shape = ir.Shape(_better(*sizes) for sizes in zip(value.shape, other.shape, strict=True))


def _better(stated: int | ir.SymbolicDim, inferred: int | ir.SymbolicDim) -> int | ir.SymbolicDim | None:
    """What the model states, unless that is nothing and inference found a number."""
    if isinstance(stated, int) or stated.value is not None or not isinstance(inferred, int):
        return stated
    return inferred


def _innermost(error: BaseException) -> BaseException:
    return error if error.__cause__ is None else _innermost(error.__cause__)
