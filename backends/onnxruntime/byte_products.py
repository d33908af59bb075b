"""Products of rounded activations with 8-bit weights, as onnxruntime multiplies bytes with bytes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from intaglio.backends.onnxruntime.packing import stored
from intaglio.compiler.ir import DequantizedWeight, GraphBuilder, is_dequantized_weight, producer_of


def byte_weight(node: ir.Node) -> DequantizedWeight | None:
    """The weight of `MatMul(DequantizeLinear(…), Transpose(W))`, where onnxruntime can multiply the codes:
    the activations are bytes of one scale, the weights signed bytes of one scale for each output."""
    if node.op_type != "MatMul" or node.domain != "" or not _is_rounded(node.inputs[0]):
        return None
    weight = is_dequantized_weight(node.inputs[1])
    if weight is None or not weight.transposed or weight.kind != "symmetric":
        return None
    whole_rows = weight.block_size == weight.shape[1] and weight.zero_point is None
    return weight if whole_rows and weight.codes.dtype == ir.DataType.INT8 else None


def lower_byte_products(model: ir.Model) -> None:
    """`MatMul(D(x₈), Transpose(D(W₈)))` → `MatMul(D(x₈), D(W₈ᵀ; axis=1))`, from which onnxruntime makes its
    `MatMulIntegerToFloat`. The codes are turned only while they are written."""
    for node in list(model.graph):
        weight = byte_weight(node)
        if weight is not None:
            _lower(model.graph, node, weight)


def _lower(graph: ir.Graph, node: ir.Node, weight: DequantizedWeight) -> None:
    rows, columns = weight.shape
    builder, name = GraphBuilder.extend(graph, before=node), str(node.name)
    codes, scale = weight.codes, weight.scale
    assert scale is not None
    turned = ir.LazyTensor(
        lambda: ir.Tensor(np.ascontiguousarray(stored(codes).T)), ir.DataType.INT8, ir.Shape([columns, rows])
    )
    inputs = [
        builder.initializer(f"{name}.turned", turned),
        builder.initializer(f"{name}.scale", stored(scale).astype(np.float32).reshape(-1)),
        builder.initializer(f"{name}.zero_point", np.zeros(rows, np.int8)),
    ]
    bytes_read = builder.node(
        "DequantizeLinear",
        inputs,
        {"axis": 1},
        name=f"{name}.bytes",
        dtype=ir.DataType.FLOAT,
        shape=[columns, rows],
    )
    node.replace_input_with(1, bytes_read)


def _is_rounded(value: ir.Value | None) -> bool:
    node = producer_of(value, "DequantizeLinear")
    codes = None if node is None else node.inputs[0]
    source = None if codes is None else codes.producer()
    return source is not None and source.op_type in ("QuantizeLinear", "DynamicQuantizeLinear")
