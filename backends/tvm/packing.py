"""Stored weights → the layouts that the kernels read."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.compiler.ir import DequantizedWeight
from intaglio.kernels.linear.layout import (
    FloatWeight,
    QuantizedWeight,
    pack_codes,
    pack_float,
    pack_groups,
)

_SIGNED_OFFSETS = {ir.DataType.INT4: 8, ir.DataType.INT8: 128}
_BITS = {ir.DataType.INT4: 4, ir.DataType.UINT4: 4, ir.DataType.INT8: 8, ir.DataType.UINT8: 8}

Layout = QuantizedWeight | FloatWeight
Sections = dict[str, NDArray[np.generic]]


def layout_of(weight: DequantizedWeight, interleave: int) -> Layout:
    """How `weight` is packed. Integer zero points that differ from group to group become float32 minima."""
    rows, columns = weight.shape
    if weight.kind == "float":
        dtype = "bfloat16" if weight.codes.dtype == ir.DataType.BFLOAT16 else "float32"
        return FloatWeight(rows, columns, dtype, interleave)
    assert weight.codes.dtype is not None
    offset = _offset(weight)
    minimum = "" if offset is not None else "float32"
    if weight.minimum is not None:
        minimum = _float_dtype(weight.minimum)
    bits, scale = _BITS[weight.codes.dtype], _float_dtype(weight.scale)
    return QuantizedWeight(rows, columns, bits, weight.block_size, offset or 0, minimum, scale, interleave)


def pack(weight: DequantizedWeight, layout: Layout) -> Sections:
    """The packed arrays by the names of the kernels' pointers."""
    if isinstance(layout, FloatWeight):
        return {"weight": pack_float(_float_values(weight.codes, layout), layout)}
    sections: Sections = {
        "codes": pack_codes(_unsigned_codes(weight.codes), layout),
        "scales": pack_groups(_floats(weight.scale), layout, layout.scale_dtype),
    }
    if layout.minimum:
        sections["minima"] = pack_groups(_minimum(weight), layout, layout.minimum)
    return sections


def section_bytes(layout: Layout) -> dict[str, int]:
    """Sizes of the arrays that `pack` returns."""
    if isinstance(layout, FloatWeight):
        return {"weight": layout.bytes}
    sizes = {"codes": layout.code_bytes, "scales": layout.scale_bytes}
    return {**sizes, "minima": layout.minimum_bytes} if layout.minimum else sizes


def _offset(weight: DequantizedWeight) -> int | None:
    """What is subtracted from every unsigned code; none where it differs from group to group."""
    assert weight.codes.dtype is not None
    shift = _SIGNED_OFFSETS.get(weight.codes.dtype, 0)
    if weight.kind == "affine":
        return 0
    if weight.zero_point is None:
        return shift
    zeros = _integers(weight.zero_point)
    return int(zeros.flat[0]) + shift if (zeros == zeros.flat[0]).all() else None


def _minimum(weight: DequantizedWeight) -> NDArray[np.floating]:
    if weight.minimum is not None:
        return _floats(weight.minimum)
    assert weight.codes.dtype is not None
    assert weight.zero_point is not None
    zeros = _integers(weight.zero_point) + _SIGNED_OFFSETS.get(weight.codes.dtype, 0)
    scale = _floats(weight.scale).astype(np.float32)
    return -scale * zeros.reshape(scale.shape).astype(np.float32)


def _unsigned_codes(codes: ir.Value) -> NDArray[np.uint8]:
    array = _array(codes)
    assert codes.dtype is not None
    if (shift := _SIGNED_OFFSETS.get(codes.dtype)) is None:
        return array.astype(np.uint8)
    # int8 + 128 is the sign bit flipped; wrapping around does just that.
    return array.astype(np.int8).view(np.uint8) + np.uint8(shift)


def _float_values(value: ir.Value, layout: FloatWeight) -> NDArray[np.generic]:
    array = _array(value)
    return array.view(np.uint16) if layout.dtype == "bfloat16" else array.astype(np.float32)


def _float_dtype(value: ir.Value | None) -> str:
    return "float16" if value is not None and value.dtype == ir.DataType.FLOAT16 else "float32"


def _floats(value: ir.Value | None) -> NDArray[np.floating]:
    assert value is not None
    array = _array(value)
    return array.astype(np.float16 if array.dtype == np.float16 else np.float32, copy=False)


def _integers(value: ir.Value) -> NDArray[np.int64]:
    return _array(value).astype(np.int64)


def _array(value: ir.Value) -> NDArray[np.generic]:
    assert value.const_value is not None, f"{value.name} is not stored"
    array: NDArray[np.generic] = value.const_value.numpy()
    return array
