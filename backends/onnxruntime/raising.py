"""From a region's file back to standard ONNX: what an export writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import (
    InlinePass,
    RemoveUnusedFunctionsPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)

from intaglio.backends.onnxruntime.lower import is_rounding
from intaglio.backends.onnxruntime.matmul_nbits import CONTRIB, INT8, MARK, replace
from intaglio.backends.onnxruntime.packing import stored
from intaglio.compiler.ir import GraphBuilder, ensure_function, quantize_activation

CODES = {4: ir.DataType.UINT4, 8: ir.DataType.UINT8}


def raise_region(path: Path, *, round_activations: bool) -> ir.Model:
    """The region file `path` in standard operators, functions inlined, weights left in their file.

    With `round_activations`, activations are rounded to int8 as the region does it; without, not at all.
    What the model brought along in onnxruntime's own operators stays.
    """
    model = ir.load(path)
    for node in list(model.graph):
        if node.domain == CONTRIB and MARK in node.metadata_props:
            _raise(model, node, round_activations)
        elif is_rounding(node) and not round_activations:
            exact = node.inputs[0]
            assert exact is not None
            node.outputs[0].replace_all_uses_with(exact, replace_graph_outputs=True)
    RemoveUnusedNodesPass()(model)
    InlinePass()(model)
    RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]  # onnx-ir leaves its __init__ untyped
    RemoveUnusedOpsetsPass()(model)
    return model


def _raise(model: ir.Model, node: ir.Node, round_activations: bool) -> None:
    builder = GraphBuilder.extend(model.graph, before=node)
    if node.op_type == "GatherBlockQuantized":
        replace(node, _lookup(builder, node))
        return
    rounded = node.attributes.get_int("accuracy_level") == INT8
    if rounded and round_activations:
        ensure_function(model, quantize_activation())
    replace(node, _product(builder, node, rounded and round_activations))


def _product(builder: GraphBuilder, node: ir.Node, rounded: bool) -> ir.Value:
    sizes = [node.attributes.get_int(one) for one in ("N", "K", "bits", "block_size")]
    rows, columns, bits, block = sizes
    x, codes, scale, *zero_point = node.inputs
    name = str(node.name)
    if rounded:
        x = builder.node(
            "QuantizeActivation", [x], {"group": block}, domain="intaglio", name=f"{name}.rounded"
        )
    shape = (rows, columns // block)
    inputs = [
        builder.initializer(f"{name}.unsigned", _reread(codes, CODES[bits], (rows, columns))),
        builder.initializer(f"{name}.scales", _reread(scale, ir.DataType.FLOAT, shape)),
        builder.initializer(f"{name}.zero_points", _zero_points(zero_point, bits, shape)),
    ]
    weight = builder.node("DequantizeLinear", inputs, {"axis": 1, "block_size": block}, name=f"{name}.weight")
    transposed = builder.node("Transpose", [weight], {"perm": [1, 0]}, name=f"{name}.transposed")
    return builder.node("MatMul", [x, transposed], name=f"{name}.product")


def _lookup(builder: GraphBuilder, node: ir.Node) -> ir.Value:
    codes, ids, *rest = node.inputs
    block, name = node.attributes.get_int("block_size"), str(node.name)
    attributes = {"axis": 1, "block_size": block}
    table = builder.node("DequantizeLinear", [codes, *rest], attributes, name=f"{name}.table")
    return builder.node("Gather", [table, ids], {"axis": 0}, name=f"{name}.row")


def _reread(value: ir.Value | None, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.TensorProtocol:
    """The same bytes as a tensor of another type and shape."""
    assert value is not None
    assert value.const_value is not None
    tensor = value.const_value
    return ir.LazyTensor(
        lambda: _tensor(np.frombuffer(tensor.tobytes(), np.uint8), dtype, shape), dtype, ir.Shape(shape)
    )


def _zero_points(given: list[ir.Value | None], bits: int, shape: tuple[int, int]) -> ir.TensorProtocol:
    middle = np.full(shape, 1 << (bits - 1), np.uint8)
    points = _points(given[0], bits, shape) if given else middle
    if bits == 8:
        return ir.Tensor(points)
    return _tensor(_pairs_of_all(points), ir.DataType.UINT4, shape)


def _points(value: ir.Value | None, bits: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Zero points `[N, blocks]`, one in each byte."""
    assert value is not None
    rows = stored(value).astype(np.uint8).reshape(shape[0], -1)
    if bits == 8:
        return rows
    halves = np.stack([rows & 0xF, rows >> 4], axis=-1).reshape(shape[0], -1)
    return halves[:, : shape[1]]


def _pairs_of_all(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    flat = codes.reshape(-1)
    padded = np.append(flat, np.uint8(0)) if flat.size % 2 else flat
    return np.bitwise_or(padded[0::2], np.left_shift(padded[1::2], np.uint8(4)))


def _tensor(raw: NDArray[np.uint8], dtype: ir.DataType, shape: tuple[int, ...]) -> ir.TensorProtocol:
    if dtype.bitwidth == 4:
        return ir.PackedTensor(raw, dtype, shape=shape)
    return ir.Tensor(raw.view(dtype.numpy()).reshape(shape), dtype)
