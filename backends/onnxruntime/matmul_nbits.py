"""Products and lookups with blocked integer weights, in onnxruntime's own operators."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.backends.onnxruntime.products import Product, largest_block, product_of
from intaglio.compiler.ir import DequantizedWeight, GraphBuilder, is_dequantized_weight

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


def _lower_product(graph: ir.Graph, product: Product) -> None:
    matmul, weight, block = product.matmul, product.weight, product.block
    rows, columns = weight.shape
    builder, name = GraphBuilder.extend(graph, before=matmul), str(matmul.name)
    inputs = [
        (product.quantize or matmul).inputs[0],
        builder.initializer(f"{name}.codes", _packed(weight, block, product.bits)),
        builder.initializer(f"{name}.scale", _repeated(weight, weight.scale, block, _flat)),
    ]
    if (zero_point := _zero_point(weight, block, product.bits)) is not None:
        inputs.append(builder.initializer(f"{name}.zero_point", zero_point))
    attributes = {
        "K": columns,
        "N": rows,
        "bits": product.bits,
        "block_size": block,
        "accuracy_level": INT8 if product.quantize is not None else FLOAT32,
    }
    result = builder.node("MatMulNBits", inputs, attributes, domain=CONTRIB, name=f"{name}.blocked")
    _mark(result)
    replace(matmul, result)


def _lower_lookup(graph: ir.Graph, gather: ir.Node, weight: DequantizedWeight) -> None:
    block = largest_block(weight.block_size)
    signed = weight.codes.dtype in (ir.DataType.INT4, ir.DataType.UINT4)
    same = weight.zero_point is None or weight.zero_point.dtype == weight.codes.dtype
    if not (block and signed and same and weight.shape[1] % block == 0):
        return
    builder, name = GraphBuilder.extend(graph, before=gather), str(gather.name)
    scale = builder.initializer(f"{name}.scale", _repeated(weight, weight.scale, block, _whole))
    inputs = [weight.codes, gather.inputs[1], scale]
    if weight.zero_point is not None:
        inputs.append(builder.initializer(f"{name}.zero_point", _repeated_codes(weight, block)))
    attributes = {"gather_axis": 0, "quantize_axis": 1, "block_size": block, "bits": 4}
    result = builder.node("GatherBlockQuantized", inputs, attributes, domain=CONTRIB, name=f"{name}.blocked")
    _mark(result)
    replace(gather, result)


def _cast_afterwards(graph: ir.Graph, gather: ir.Node, weight: DequantizedWeight) -> None:
    builder, name = GraphBuilder.extend(graph, before=gather), str(gather.name)
    rows = builder.node("Gather", [weight.codes, gather.inputs[1]], {"axis": 0}, name=f"{name}.narrow")
    replace(gather, builder.node("Cast", [rows], {"to": int(ir.DataType.FLOAT)}, name=f"{name}.wide"))


def _mark(value: ir.Value) -> None:
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


def _packed(weight: DequantizedWeight, block: int, bits: int) -> ir.TensorProtocol:
    """Codes uint8 `[N, K / block, block · bits / 8]`, unsigned, the earlier of two in the lower half."""
    rows, columns = weight.shape
    shape = (rows, columns // block, block * bits // 8)

    def pack() -> ir.TensorProtocol:
        codes = unsigned(stored(weight.codes))
        return ir.Tensor((pairs(codes) if bits == 4 else codes).reshape(shape))

    return ir.LazyTensor(pack, ir.DataType.UINT8, ir.Shape(shape))


def _zero_point(weight: DequantizedWeight, block: int, bits: int) -> ir.TensorProtocol | None:
    """Zero points uint8, flat, each row on its own bytes; `None` for the operator's own, half the range."""
    value = weight.zero_point
    if value is None and weight.codes.dtype in (ir.DataType.INT4, ir.DataType.INT8):
        return None
    count, repeats = weight.shape[1] // block, weight.block_size // block
    size = weight.shape[0] * -(-count * bits // 8)

    def pack() -> ir.TensorProtocol:
        # Unsigned codes without zero points count from 0.
        points = np.zeros((weight.shape[0], count), np.uint8)
        if value is not None:
            points = np.repeat(unsigned(stored(value)), repeats, axis=1)
        if bits == 4 and count % 2:
            points = np.pad(points, ((0, 0), (0, 1)))
        return ir.Tensor((pairs(points) if bits == 4 else points).reshape(-1))

    return ir.LazyTensor(pack, ir.DataType.UINT8, ir.Shape([size]))


def _repeated(
    weight: DequantizedWeight,
    value: ir.Value | None,
    block: int,
    shape: Callable[[int, int], tuple[int, ...]],
) -> ir.TensorProtocol:
    """A float32 number for each block: those of the weight's own blocks, repeated."""
    assert value is not None
    repeats = weight.block_size // block
    wanted = shape(weight.shape[0], weight.shape[1] // block)

    def make() -> ir.TensorProtocol:
        numbers = np.repeat(stored(value).astype(np.float32), repeats, axis=1)
        return ir.Tensor(numbers.reshape(wanted))

    return ir.LazyTensor(make, ir.DataType.FLOAT, ir.Shape(wanted))


def _repeated_codes(weight: DequantizedWeight, block: int) -> ir.TensorProtocol:
    value, dtype = weight.zero_point, weight.codes.dtype
    assert value is not None
    assert dtype is not None
    shape, repeats = (weight.shape[0], weight.shape[1] // block), weight.block_size // block

    def make() -> ir.TensorProtocol:
        codes = np.repeat(stored(value).astype(np.uint8) & 0xF, repeats, axis=1).reshape(-1)
        padded = np.append(codes, np.uint8(0)) if codes.size % 2 else codes
        return ir.PackedTensor(padded[0::2] | padded[1::2] << 4, dtype, shape=shape)

    return ir.LazyTensor(make, dtype, ir.Shape(shape))


def _flat(rows: int, count: int) -> tuple[int, ...]:
    return (rows * count,)


def _whole(rows: int, count: int) -> tuple[int, ...]:
    return (rows, count)


def stored(value: ir.Value) -> NDArray[np.generic]:
    """The array of an initialiser."""
    assert value.const_value is not None
    return value.const_value.numpy()


def unsigned(codes: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Codes as uint8; signed ones moved up by half their range."""
    signed = {"int4": 8, "int8": 128}.get(codes.dtype.name, 0)
    return (codes.astype(np.int16) + signed).astype(np.uint8)


def pairs(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two 4-bit codes of a row in each byte, the earlier in the lower half."""
    return np.bitwise_or(codes[..., 0::2], np.left_shift(codes[..., 1::2], np.uint8(4)))
