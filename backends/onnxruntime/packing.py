"""Codes, scales and zero points as onnxruntime's operators want them: made only while they are written."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.compiler.ir import DequantizedWeight


def packed_codes(weight: DequantizedWeight, block: int, bits: int) -> ir.TensorProtocol:
    """Codes uint8 `[N, K / block, block · bits / 8]`, unsigned, the earlier of two in the lower half."""
    rows, columns = weight.shape
    shape = (rows, columns // block, block * bits // 8)

    def pack() -> ir.TensorProtocol:
        codes = unsigned(stored(weight.codes))
        return ir.Tensor((pairs(codes) if bits == 4 else codes).reshape(shape))

    return ir.LazyTensor(pack, ir.DataType.UINT8, ir.Shape(shape))


def packed_zero_points(weight: DequantizedWeight, block: int, bits: int) -> ir.TensorProtocol | None:
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


def block_numbers(
    weight: DequantizedWeight,
    value: ir.Value | None,
    block: int,
    flat: bool = False,
) -> ir.TensorProtocol:
    """A float32 number for each block, `[N, K / block]` or flat: those of larger blocks, repeated."""
    assert value is not None
    repeats = weight.block_size // block
    rows, count = weight.shape[0], weight.shape[1] // block
    shape = (rows * count,) if flat else (rows, count)

    def make() -> ir.TensorProtocol:
        numbers = np.repeat(stored(value).astype(np.float32), repeats, axis=1)
        return ir.Tensor(numbers.reshape(shape))

    return ir.LazyTensor(make, ir.DataType.FLOAT, ir.Shape(shape))


def block_codes(weight: DequantizedWeight, block: int) -> ir.TensorProtocol:
    """The zero points `[N, K / block]` in the codes' own type, repeated."""
    value, dtype = weight.zero_point, weight.codes.dtype
    assert value is not None
    assert dtype is not None
    shape, repeats = (weight.shape[0], weight.shape[1] // block), weight.block_size // block

    def make() -> ir.TensorProtocol:
        codes = np.repeat(stored(value).astype(np.uint8) & 0xF, repeats, axis=1).reshape(-1)
        padded = np.append(codes, np.uint8(0)) if codes.size % 2 else codes
        return ir.PackedTensor(padded[0::2] | padded[1::2] << 4, dtype, shape=shape)

    return ir.LazyTensor(make, dtype, ir.Shape(shape))


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
