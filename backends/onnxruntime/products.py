"""How onnxruntime is to run each product with a stored weight: found out first, so that it can be told."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from intaglio.backends.onnxruntime.byte_products import byte_weight
from intaglio.compiler.ir import (
    DOMAIN,
    DequantizedWeight,
    attribute_int,
    is_dequantized_weight,
    producer_of,
)

SMALLEST_BLOCK, LARGEST_BLOCK = 16, 256  # of MatMulNBits: powers of two between these


@dataclass(frozen=True)
class Product:
    """`MatMul(x, Transpose(W))`, perhaps with rounded activations.

    `block` weights share a scale in `MatMulNBits`; 0 where the weight is to be stored in floating point.
    """

    matmul: ir.Node
    weight: DequantizedWeight
    block: int
    quantize: ir.Node | None  # the `QuantizeActivation` that `MatMulNBits` does itself, if any

    @property
    def bits(self) -> int:
        """Of one code."""
        dtype = self.weight.codes.dtype
        assert dtype is not None
        return dtype.bitwidth

    @property
    def form(self) -> str:
        """The kernel, for people."""
        if self.block:
            rounding = ", activations rounded to int8" if self.quantize is not None else ""
            return f"MatMulNBits, {self.bits} bits in blocks of {self.block}{rounding}"
        if self.weight.kind == "float":
            return "MatMul"
        if byte_weight(self.matmul) is not None:
            return "MatMulIntegerToFloat, activations in bytes"
        return f"MatMul, weight stored in floating point: {reason_for_floats(self)}"


def product_of(node: ir.Node) -> Product | None:
    """The product that `node` is, if it is one with a stored weight."""
    if node.op_type != "MatMul" or node.domain != "":
        return None
    weight = is_dequantized_weight(node.inputs[1])
    if weight is None or not weight.transposed:
        return None
    if (
        not _is_integer(weight)
        or float_type(node.inputs[1]) != ir.DataType.FLOAT
        or _is_vector(node.inputs[0])
    ):
        return Product(node, weight, 0, None)
    rounding = producer_of(node.inputs[0], "QuantizeActivation", DOMAIN)
    group = 0 if rounding is None else attribute_int(rounding, "group", 0)
    if _fits(group) and weight.block_size % group == 0:
        return Product(node, weight, group, rounding)
    # Without rounding, onnxruntime is quick with 4-bit weights only: others it dequantises in every call.
    block = largest_block(weight.block_size) if _bits(weight) == 4 else 0
    return Product(node, weight, block, None)


def product_forms(model: ir.Model) -> dict[ir.Node, str]:
    """`MatMul` node → the kernel that onnxruntime will run for it, for all products with stored weights."""
    found = (product_of(node) for node in model.graph)
    return {one.matmul: one.form for one in found if one is not None}


def reason_for_floats(product: Product) -> str:
    """Why a quantised weight cannot stay quantised in onnxruntime."""
    weight = product.weight
    if weight.kind == "affine":
        return "MatMulNBits takes no minimum"
    if float_type(product.matmul.inputs[1]) != ir.DataType.FLOAT or _is_vector(product.matmul.inputs[0]):
        return "MatMulNBits takes matrices of float32"
    if weight.zero_point is not None and weight.zero_point.dtype != weight.codes.dtype:
        return "MatMulNBits takes no such zero point"
    if weight.shape[1] % weight.block_size or not largest_block(weight.block_size):
        return f"MatMulNBits takes no blocks of {weight.block_size}"
    rounding = producer_of(product.matmul.inputs[0], "QuantizeActivation", DOMAIN)
    if rounding is not None:
        group = attribute_int(rounding, "group", 0)
        return f"MatMulNBits rounds no activations in groups of {group}"
    return f"MatMulNBits dequantises {product.bits}-bit weights anew in every call"


def float_type(value: ir.Value | None) -> ir.DataType | None:
    """The type of a stored weight's values after dequantisation and `Cast`; `None` where it is not known."""
    node = None if value is None else value.producer()
    if value is None or node is None:
        return None if value is None else value.dtype
    if node.op_type == "Cast":
        return ir.DataType(node.attributes["to"].as_int())
    if node.op_type == "DequantizeLinear":
        chosen = node.attributes.get_int("output_dtype", 0)
        return ir.DataType(chosen) if chosen else float_type(node.inputs[1])
    if node.op_type == "DequantizeAffine":
        return ir.DataType.FLOAT
    return float_type(node.inputs[0])  # through Transpose


def largest_block(size: int) -> int:
    """The largest block that `MatMulNBits` takes and that divides `size`; 0 where there is none."""
    power = min(size & -size, LARGEST_BLOCK)
    return power if power >= SMALLEST_BLOCK else 0


def _is_integer(weight: DequantizedWeight) -> bool:
    """Whether the weight is what `MatMulNBits` computes with: integer codes, integer zero points."""
    zero_point = weight.zero_point
    return (
        weight.kind == "symmetric"
        and weight.shape[1] % weight.block_size == 0
        and weight.codes.dtype in _CODES
        and (zero_point is None or zero_point.dtype == weight.codes.dtype)
    )


def _fits(block: int) -> bool:
    return block > 0 and largest_block(block) == block


def _is_vector(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None and len(value.shape) < 2


def _bits(weight: DequantizedWeight) -> int:
    assert weight.codes.dtype is not None
    return weight.codes.dtype.bitwidth


_CODES = (ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT8, ir.DataType.UINT8)
