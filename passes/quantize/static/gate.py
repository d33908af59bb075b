"""`HardSwish` on bytes: a product of the codes with the codes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from intaglio.compiler.ir.builder import GraphBuilder
from intaglio.passes.quantize.static.grid import Grid
from intaglio.passes.quantize.static.value_range import STEPS
from intaglio.passes.rewriting import sizes, supersede


def multiply_by_gate(graph: ir.Graph, value: ir.Value, codes: ir.Value, grid: Grid) -> None:
    """`HardSwish(value)` → `Mul(value, D(Clip(codes, 0, 2z); s / 6, 0))`, wherever it is read.

    On a grid of step s whose code 0 means -3, and whose zero point z therefore means 3 = z · s, the codes
    themselves count the steps of x + 3: hard swish is x · clip(x + 3, 0, 6) / 6, so its second factor is the
    code, cut off at 2z, in steps of s / 6. onnxruntime multiplies two such tensors without leaving bytes.
    """
    assert grid.zero_point * grid.scale > 0, "the grid of a hard swish has its knee at code 0"
    for node in [use.node for use in value.uses()]:
        builder = GraphBuilder.extend(graph, before=node)
        gate = _cut_off(builder, codes, 2 * int(grid.zero_point), str(node.name))
        numbers = [builder.constant(np.array(one)) for one in (np.float32(grid.scale / 6), np.uint8(0))]
        factor = builder.node(
            "DequantizeLinear", [gate, *numbers], name=f"{node.name}.gate", dtype=ir.DataType.FLOAT
        )
        product = builder.node("Mul", [value, factor], name=f"{node.name}.product", dtype=ir.DataType.FLOAT)
        producer = product.producer()
        assert producer is not None
        supersede(node, producer)


def _cut_off(builder: GraphBuilder, codes: ir.Value, most: int, name: str) -> ir.Value:
    if most >= STEPS:
        return codes
    limits = [builder.constant(np.array(one, np.uint8)) for one in (0, most)]
    shape, dtype = sizes(codes), ir.DataType.UINT8
    return builder.node("Clip", [codes, *limits], name=f"{name}.gate.codes", dtype=dtype, shape=shape)
