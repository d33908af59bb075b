"""Weights stored as onnxruntime multiplies them: in floating point, transposed where that is wanted."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.backends.onnxruntime.packing import stored
from intaglio.backends.onnxruntime.products import float_type
from intaglio.compiler.ir import DequantizedWeight, GraphBuilder, is_dequantized_weight

WEIGHTS_AT_ONCE = 1 << 20  # in floating point beside the result


def store_floats(model: ir.Model) -> None:
    """`Transpose(W)`, and `W` dequantised → initialisers in floating point, made only while they are written.

    Exceptions:
    1. A float weight that something else reads as it is stays one initialiser, with its `Transpose`.
    2. What nothing but a `Transpose` reads is left to that.
    onnxruntime would otherwise keep a second copy of every transposed weight in memory, and dequantise the
    others in every call.
    """
    for node in list(model.graph):
        value = node.outputs[0]
        weight = is_dequantized_weight(value) if len(node.outputs) == 1 and value.uses() else None
        if weight is None or (weight.kind == "float" and not weight.transposed):
            continue
        shared = weight.kind == "float" and len(weight.codes.uses()) > 1  # exception 1
        if shared or (not weight.transposed and _only_transposed(value)):  # exception 2
            continue
        _store(model.graph, value, weight)


def _store(graph: ir.Graph, value: ir.Value, weight: DequantizedWeight) -> None:
    shape = weight.shape[::-1] if weight.transposed else weight.shape
    dtype = float_type(value) or ir.DataType.FLOAT
    tensor = ir.LazyTensor(lambda: ir.Tensor(_values(weight, dtype), dtype), dtype, ir.Shape(shape))
    name = f"{weight.codes.name}.{'transposed' if weight.transposed else 'dequantized'}"
    initializer = GraphBuilder.extend(graph).initializer(name, tensor)
    value.replace_all_uses_with(initializer, replace_graph_outputs=True)


def _values(weight: DequantizedWeight, dtype: ir.DataType) -> NDArray[np.generic]:
    """The weight `[N, K]`, or transposed `[K, N]`, dequantised some rows at a time."""
    rows, columns = weight.shape
    result = np.empty(weight.shape[::-1] if weight.transposed else weight.shape, dtype.numpy())
    view = result.T if weight.transposed else result
    parts = [None if one is None else stored(one) for one in _parts(weight)]
    step = max(1, WEIGHTS_AT_ONCE // columns)
    for start in range(0, rows, step):
        chosen = [None if one is None else one[start : start + step] for one in parts]
        view[start : start + step] = _dequantized(weight, *chosen)
    return result


def _parts(weight: DequantizedWeight) -> tuple[ir.Value | None, ...]:
    return weight.codes, weight.scale, weight.zero_point, weight.minimum


def _dequantized(
    weight: DequantizedWeight,
    codes: NDArray[np.generic] | None,
    scale: NDArray[np.generic] | None,
    zero_point: NDArray[np.generic] | None,
    minimum: NDArray[np.generic] | None,
) -> NDArray[np.generic]:
    assert codes is not None
    if scale is None:
        return codes
    values = codes.astype(np.float32).reshape(len(codes), -1, weight.block_size)
    if zero_point is not None:
        values -= zero_point.astype(np.float32)[..., None]
    values *= scale.astype(np.float32)[..., None]
    if minimum is not None:
        values += minimum.astype(np.float32)[..., None]
    return values.reshape(codes.shape)


def _only_transposed(value: ir.Value) -> bool:
    readers = [use.node for use in value.uses()]
    return not value.is_graph_output() and all(
        one.op_type == "Transpose" and one.domain == "" for one in readers
    )
