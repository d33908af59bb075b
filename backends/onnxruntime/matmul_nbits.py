"""Products with blocked integer weights, in onnxruntime's own operators."""

from __future__ import annotations

import onnx_ir as ir

from intaglio.backends.onnxruntime.packing import block_numbers, packed_codes, packed_zero_points
from intaglio.backends.onnxruntime.products import Product, product_of
from intaglio.compiler.ir import GraphBuilder

CONTRIB = "com.microsoft"
# `accuracy_level`: products in float32, or with activations rounded to int8 in each block, as
# `QuantizeActivation` does it.
FLOAT32, INT8 = 1, 4
# On nodes of onnxruntime's own operators that stand for standard ones, so that an export puts those back.
MARK = "intaglio.lowered"


def lower_products(model: ir.Model) -> None:
    """`MatMul([QuantizeActivation](x), Transpose(DequantizeLinear(codes, scale, zero)))` → `MatMulNBits`.

    Codes are stored unsigned, packed, in blocks that the operator takes; scales and zero points of larger
    blocks are repeated. Products that it does not take, or takes slowly, are left alone: see `products`.
    """
    for node in list(model.graph):
        product = product_of(node)
        if product is not None and product.block:
            _lower_product(model.graph, product)


def _lower_product(graph: ir.Graph, product: Product) -> None:
    matmul, weight, block = product.matmul, product.weight, product.block
    rows, columns = weight.shape
    builder, name = GraphBuilder.extend(graph, before=matmul), str(matmul.name)
    inputs = [
        (product.quantize or matmul).inputs[0],
        builder.initializer(f"{name}.codes", packed_codes(weight, block, product.bits)),
        builder.initializer(f"{name}.scale", block_numbers(weight, weight.scale, block, flat=True)),
    ]
    if (zero_point := packed_zero_points(weight, block, product.bits)) is not None:
        inputs.append(builder.initializer(f"{name}.zero_point", zero_point))
    attributes = {
        "K": columns,
        "N": rows,
        "bits": product.bits,
        "block_size": block,
        "accuracy_level": INT8 if product.quantize is not None else FLOAT32,
    }
    result = builder.node("MatMulNBits", inputs, attributes, domain=CONTRIB, name=f"{name}.blocked")
    mark(result)
    replace(matmul, result)


def mark(value: ir.Value) -> None:
    """Let an export put back what the node that makes `value` stands for."""
    node = value.producer()
    assert node is not None
    node.metadata_props[MARK] = "yes"


def replace(old: ir.Node, new: ir.Value) -> None:
    """Let `new` take the place of the only output of `old`, name included."""
    (value,) = old.outputs
    name, value.name = value.name, f"{value.name}.superseded"
    new.type, new.shape = value.type, value.shape
    value.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name = name
