"""Lookups in tables that are stored narrow, in onnxruntime's own operators."""

from __future__ import annotations

import onnx_ir as ir

from intaglio.backends.onnxruntime.matmul_nbits import CONTRIB, mark, replace
from intaglio.backends.onnxruntime.packing import block_codes, block_numbers
from intaglio.backends.onnxruntime.products import largest_block
from intaglio.compiler.ir import DequantizedWeight, GraphBuilder, is_dequantized_weight


def lower_lookups(model: ir.Model) -> None:
    """`Gather(DequantizeLinear(codes, scale, zero point), ids)` → `GatherBlockQuantized`, of 4-bit codes;
    `Gather(Cast(table), ids)` → `Cast(Gather(table, ids))`.

    onnxruntime would otherwise hold the whole table in floating point.
    """
    for node in list(model.graph):
        if node.op_type != "Gather" or node.domain != "" or node.attributes.get_int("axis", 0) != 0:
            continue
        weight = is_dequantized_weight(node.inputs[0])
        if weight is None or weight.transposed:
            continue
        if weight.kind == "symmetric":
            _lower_lookup(model.graph, node, weight)
        elif weight.codes is not node.inputs[0] and weight.kind == "float":
            _cast_afterwards(model.graph, node, weight)


def _lower_lookup(graph: ir.Graph, gather: ir.Node, weight: DequantizedWeight) -> None:
    block = largest_block(weight.block_size)
    signed = weight.codes.dtype in (ir.DataType.INT4, ir.DataType.UINT4)
    same = weight.zero_point is None or weight.zero_point.dtype == weight.codes.dtype
    if not (block and signed and same and weight.shape[1] % block == 0):
        return
    builder, name = GraphBuilder.extend(graph, before=gather), str(gather.name)
    scale = builder.initializer(f"{name}.scale", block_numbers(weight, weight.scale, block))
    inputs = [weight.codes, gather.inputs[1], scale]
    if weight.zero_point is not None:
        inputs.append(builder.initializer(f"{name}.zero_point", block_codes(weight, block)))
    attributes = {"gather_axis": 0, "quantize_axis": 1, "block_size": block, "bits": 4}
    result = builder.node("GatherBlockQuantized", inputs, attributes, domain=CONTRIB, name=f"{name}.blocked")
    mark(result)
    replace(gather, result)


def _cast_afterwards(graph: ir.Graph, gather: ir.Node, weight: DequantizedWeight) -> None:
    builder, name = GraphBuilder.extend(graph, before=gather), str(gather.name)
    rows = builder.node("Gather", [weight.codes, gather.inputs[1]], {"axis": 0}, name=f"{name}.narrow")
    replace(gather, builder.node("Cast", [rows], {"to": int(ir.DataType.FLOAT)}, name=f"{name}.wide"))
