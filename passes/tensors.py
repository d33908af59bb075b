"""Tensors for the initialisers that passes make: packed 4-bit codes, and joins that exist only while read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def pack_codes(codes: NDArray[np.generic], dtype: ir.DataType) -> ir.TensorProtocol:
    """Integer codes as a tensor of `dtype`; two 4-bit codes share a byte, the first in its lower half."""
    if dtype.bitwidth == 8:
        return ir.Tensor(codes.astype(dtype.numpy()))
    return ir.PackedTensor(pack_nibbles(codes), dtype, shape=codes.shape)


def pack_nibbles(codes: NDArray[np.generic]) -> NDArray[np.uint8]:
    """The lower four bits of every code, two in a byte, the first in its lower half; flat."""
    nibbles = codes.astype(np.uint8).reshape(-1) & 0xF
    if nibbles.size % 2:
        nibbles = np.append(nibbles, np.uint8(0))
    packed = nibbles[0::2] | (nibbles[1::2] << np.uint8(4))
    return packed.astype(np.uint8, copy=False)


def join_rows(tensors: Sequence[ir.TensorProtocol]) -> ir.LazyTensor:
    """The tensors `[N_i, …]` one below the other: read on demand, bit for bit, and not retained."""
    shapes = [one.shape.numpy() for one in tensors]
    shape = (sum(one[0] for one in shapes), *shapes[0][1:])
    return ir.LazyTensor(lambda: _join(tensors, shape), tensors[0].dtype, ir.Shape(shape))


def turned(tensor: ir.TensorProtocol) -> ir.LazyTensor:
    """The matrix `[N, K]` of a matrix `[K, N]`: read on demand, and not retained."""
    rows, columns = tensor.shape.numpy()
    return ir.LazyTensor(
        lambda: ir.Tensor(np.ascontiguousarray(tensor.numpy().T), tensor.dtype),
        tensor.dtype,
        ir.Shape([columns, rows]),
    )


def _join(tensors: Sequence[ir.TensorProtocol], shape: tuple[int, ...]) -> ir.TensorProtocol:
    dtype = tensors[0].dtype
    if dtype.bitwidth != 4:
        return ir.Tensor(np.concatenate([one.numpy() for one in tensors]), dtype)
    if any(one.size % 2 for one in tensors[:-1]):  # a byte would be shared by two tensors
        return pack_codes(np.concatenate([one.numpy() for one in tensors]), dtype)
    packed = np.concatenate([np.frombuffer(one.tobytes(), np.uint8) for one in tensors])
    return ir.PackedTensor(packed, dtype, shape=shape)
