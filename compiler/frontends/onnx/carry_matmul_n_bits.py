"""onnxruntime's products with 4-bit and 8-bit weights, in standard ops."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from intaglio.compiler.frontends.onnx.blocked_linear import (
    Blocks,
    Store,
    dequantized,
    stored_tensor,
    stored_value,
    turned,
)
from intaglio.compiler.frontends.onnx.blocks import Array, converted, packed_bytes, unpacked_rows
from intaglio.passes.result import Applied, Declined, PassResult
from intaglio.passes.rewriting import input_at, insert, is_op, remove_unused, site_of, supersede

MICROSOFT = "com.microsoft"
_BITS = {4: (ir.DataType.UINT4, ir.DataType.INT4), 8: (ir.DataType.UINT8, ir.DataType.INT8)}
_FLOAT32_LEVELS = (0, 1)  # of accuracy: as the runtime likes, which on CPUs is float32, and float32


@dataclass(frozen=True)
class CarryMatMulNBits:
    """`MatMulNBits(x, B, s[, z][, bias])` → `MatMul(x, Transpose(DequantizeLinear(codes, s[, z])))`.

    The result is `+ bias` by `Add`. Codes, scales and zero points are the stored ones, bit for bit: with zero
    points, unsigned codes; without, signed codes, as the implied zero point is half the range.

    Exceptions, each declined:
    1. `accuracy_level` is 2 or more: onnxruntime then rounds activations (to int8 with 4), which standard ops
       do not say. The node stays and computes what it did.
    2. `bits` is neither 4 nor 8.
    3. `K` is no multiple of `block_size`: the node pads, blocks of the IR do not.
    4. Scales are not float32: onnxruntime rounds products in half precision in its own way.
    5. Zero points are floats, or rows are reordered by `g_idx`.
    6. Weights are prepacked, or come from elsewhere than from initialisers.
    Nodes in subgraphs and functions stay.
    """

    name: str = "carry_matmul_n_bits"

    def __call__(self, model: ir.Model) -> PassResult:
        """Rewrite every such node of the main graph."""
        nodes = [node for node in model.graph if is_op(node, "MatMulNBits", MICROSOFT)]
        store = Store(model.graph)
        accounts = [self._carry(store, node) for node in nodes]
        remove_unused(model)
        return PassResult.of(model, accounts)

    def _carry(self, store: Store, node: ir.Node) -> Applied | Declined:
        site = site_of(node)
        if reason := _hindrance(node):
            return Declined(self.name, site, reason)
        blocks = _blocks(store, node)
        name = f"{node.name}.weight"
        weight = turned(node, dequantized(node, blocks, f"{name}.dequantized"), f"{name}.transposed")
        product = insert(node, "MatMul", [node.inputs[0], weight])
        if bias := input_at(node, 5):
            product.name = product.outputs[0].name = f"{node.name}.product"
            product = insert(node, "Add", [product.outputs[0], bias])
        supersede(node, product)
        return Applied(
            self.name, site, f"{blocks.codes.dtype} {blocks.codes.shape} in blocks of {blocks.size}"
        )


def _hindrance(node: ir.Node) -> str | None:
    """The first exception that `node` is."""
    level, bits = node.attributes.get_int("accuracy_level", 0), node.attributes.get_int("bits", 4)
    columns, block = node.attributes.get_int("K", 0), node.attributes.get_int("block_size", 1)
    scales, zero_points = input_at(node, 2), input_at(node, 3)
    if level not in _FLOAT32_LEVELS:
        return f"accuracy_level {level} rounds activations"
    if bits not in _BITS:
        return f"codes have {bits} bits"
    if block < 1 or columns % block:
        return f"K = {columns} is no multiple of block_size {block}"
    if scales is None or scales.dtype != ir.DataType.FLOAT:
        return f"scales are {scales.dtype if scales else None}, not float32"
    if zero_points is not None and zero_points.dtype != ir.DataType.UINT8:
        return f"zero points are {zero_points.dtype}, not packed integers"
    if input_at(node, 4) is not None:
        return "rows are reordered by g_idx"
    return _storage_hindrance(node)


def _storage_hindrance(node: ir.Node) -> str | None:
    if node.attributes.get_int("weight_prepacked", 0):
        return "weights are prepacked for one runtime"
    count, blocks, bits = _sizes(node)
    needed = {1: count * blocks * node.attributes.get_int("block_size", 1) * bits // 8, 2: count * blocks}
    needed[3] = count * -(-blocks * bits // 8)
    for index, size in needed.items():
        value = input_at(node, index)
        if value is None:
            continue
        if value.const_value is None or not value.is_initializer():
            return f"{value.name} is computed or fed"
        if prod(value.const_value.shape.numpy()) != size:
            return (
                f"{value.name} has shape {value.const_value.shape}; N, K and block_size need {size} elements"
            )
    return None


def _sizes(node: ir.Node) -> tuple[int, int, int]:
    """N, blocks in a row, bits of a code."""
    columns, block = node.attributes.get_int("K", 0), node.attributes.get_int("block_size", 1)
    return node.attributes.get_int("N", 0), columns // block, node.attributes.get_int("bits", 4)


def _blocks(store: Store, node: ir.Node) -> Blocks:
    count, blocks, bits = _sizes(node)
    size = node.attributes.get_int("block_size", 1)
    has_zero_points = input_at(node, 3) is not None
    unsigned, signed = _BITS[bits]
    dtype = unsigned if has_zero_points else signed
    flip = 0 if has_zero_points else (0x88 if bits == 4 else 0x80)  # subtracts half the range
    codes = packed_bytes(stored_tensor(node, 1), dtype, (count, blocks * size), flip)
    scales = converted(stored_tensor(node, 2), ir.DataType.FLOAT, (count, blocks), lambda stored: stored)
    return Blocks(
        store.keep(stored_value(node, 1), "codes", codes),
        store.keep(stored_value(node, 2), "blocks", scales),
        _zero_points(store, node, dtype) if has_zero_points else None,
        size,
    )


def _zero_points(store: Store, node: ir.Node, dtype: ir.DataType) -> ir.Value:
    count, blocks, bits = _sizes(node)

    def convert(packed: Array) -> Array:
        return unpacked_rows(packed.reshape(count, -1), blocks) if bits == 4 else packed

    kept = converted(stored_tensor(node, 3), dtype, (count, blocks), convert)
    return store.keep(stored_value(node, 3), "blocks", kept)
