"""Stored codes, scales and zero points in the layout of our IR, converted only when they are read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.passes.tensors import pack_codes

Array = NDArray[np.generic]


def converted(
    source: ir.TensorProtocol, dtype: ir.DataType, shape: tuple[int, ...], convert: Callable[[Array], Array]
) -> ir.LazyTensor:
    """`convert(source)`, of `dtype` and `shape`: read on demand, and not retained."""
    return ir.LazyTensor(lambda: _stored(convert(source.numpy()), dtype, shape), dtype, ir.Shape(shape))


def packed_bytes(
    source: ir.TensorProtocol, dtype: ir.DataType, shape: tuple[int, ...], flip: int
) -> ir.LazyTensor:
    """The bytes of `source`, each exclusive-or `flip`, as a tensor of `dtype` and `shape`."""
    return ir.LazyTensor(lambda: _from_bytes(source, dtype, shape, flip), dtype, ir.Shape(shape))


def unpacked_rows(packed: Array, columns: int) -> Array:
    """uint8 `[N, ⌈columns / 2⌉]` of two 4-bit codes a byte, the first in its lower half → `[N, columns]`."""
    low, high = packed.astype(np.uint8) & 0xF, packed.astype(np.uint8) >> 4
    return np.stack([low, high], axis=-1).reshape(packed.shape[0], -1)[:, :columns]


def _from_bytes(
    source: ir.TensorProtocol, dtype: ir.DataType, shape: tuple[int, ...], flip: int
) -> ir.TensorProtocol:
    stored = source.numpy().reshape(-1).view(np.uint8)
    stored = stored ^ np.uint8(flip) if flip else stored
    if dtype.bitwidth == 4:
        return ir.PackedTensor(stored, dtype, shape=ir.Shape(shape))
    return ir.Tensor(stored.view(dtype.numpy()).reshape(shape), dtype)


def _stored(array: Array, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.TensorProtocol:
    array = array.reshape(shape)
    if dtype.bitwidth == 4:
        return pack_codes(array.astype(np.int8), dtype)
    return ir.Tensor(np.ascontiguousarray(array), dtype)
