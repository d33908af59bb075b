"""Stored weights → the layouts that the kernels read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.compiler.ir import DequantizedWeight
from intaglio.kernels.linear.layout import (
    ROWS,
    FloatWeight,
    QuantizedWeight,
    pack_codes,
    pack_float,
    pack_groups,
)

_SIGNED_OFFSETS = {ir.DataType.INT4: 8, ir.DataType.INT8: 128}
_BITS = {ir.DataType.INT4: 4, ir.DataType.UINT4: 4, ir.DataType.INT8: 8, ir.DataType.UINT8: 8}

Layout = QuantizedWeight | FloatWeight
PIECE = 1 << 22  # weights that are packed at a time


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


def pack(weight: DequantizedWeight, layout: Layout) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """The packed arrays by the names of the kernels' pointers, in pieces of some blocks of rows."""
    parts = _stored_arrays(weight)
    for rows, piece in _pieces(layout):
        taken = {name: _take(array, rows) for name, array in parts.items()}
        if isinstance(piece, FloatWeight):
            yield "weight", pack_float(_float_values(taken["codes"], piece), piece)
        else:
            yield from _packed(weight, taken, piece)


def section_bytes(layout: Layout) -> dict[str, int]:
    """Sizes of the arrays that `pack` returns."""
    if isinstance(layout, FloatWeight):
        return {"weight": layout.bytes}
    sizes = {"codes": layout.code_bytes, "scales": layout.scale_bytes}
    return {**sizes, "minima": layout.minimum_bytes} if layout.minimum else sizes


def _pieces(layout: Layout) -> Iterator[tuple[list[slice], Layout]]:
    """Rows of each interleaved part, whole blocks of them at a time, and the layout of what they make."""
    part = layout.rows // layout.interleave
    step = max(ROWS, PIECE // (layout.columns * layout.interleave) // ROWS * ROWS)
    for start in range(0, part, step):
        stop = min(start + step, part)
        rows = [slice(one * part + start, one * part + stop) for one in range(layout.interleave)]
        yield rows, replace(layout, rows=layout.interleave * (stop - start))


def _take(array: NDArray[np.generic], rows: list[slice]) -> NDArray[np.generic]:
    return array[rows[0]] if len(rows) == 1 else np.concatenate([array[one] for one in rows])


def _stored_arrays(weight: DequantizedWeight) -> dict[str, NDArray[np.generic]]:
    """What is stored of a weight, each `[rows, …]`."""
    values = {name: getattr(weight, name) for name in ("codes", "scale", "zero_point", "minimum")}
    return {name: _array(one) for name, one in values.items() if one is not None}


def _packed(
    weight: DequantizedWeight, taken: dict[str, NDArray[np.generic]], layout: QuantizedWeight
) -> Iterator[tuple[str, NDArray[np.generic]]]:
    assert weight.codes.dtype is not None
    shift = _SIGNED_OFFSETS.get(weight.codes.dtype, 0)
    yield "codes", pack_codes(_unsigned_codes(taken["codes"], shift), layout)
    yield "scales", pack_groups(_floats(taken["scale"]), layout, layout.scale_dtype)
    if layout.minimum:
        yield "minima", pack_groups(_minimum(taken, shift), layout, layout.minimum)


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


def _minimum(taken: dict[str, NDArray[np.generic]], shift: int) -> NDArray[np.floating]:
    if "minimum" in taken:
        return _floats(taken["minimum"])
    zeros = taken["zero_point"].astype(np.int64) + shift
    scale = _floats(taken["scale"]).astype(np.float32)
    return -scale * zeros.reshape(scale.shape).astype(np.float32)


def _unsigned_codes(codes: NDArray[np.generic], shift: int) -> NDArray[np.uint8]:
    if not shift:
        return codes.astype(np.uint8)
    # int8 + 128 is the sign bit flipped; wrapping around does just that.
    return codes.astype(np.int8).view(np.uint8) + np.uint8(shift)


def _float_values(array: NDArray[np.generic], layout: FloatWeight) -> NDArray[np.generic]:
    return array.view(np.uint16) if layout.dtype == "bfloat16" else array.astype(np.float32)


def _float_dtype(value: ir.Value | None) -> str:
    return "float16" if value is not None and value.dtype == ir.DataType.FLOAT16 else "float32"


def _floats(array: NDArray[np.generic]) -> NDArray[np.floating]:
    return array.astype(np.float16 if array.dtype == np.float16 else np.float32, copy=False)


def _integers(value: ir.Value) -> NDArray[np.int64]:
    return _array(value).astype(np.int64)


def _array(value: ir.Value) -> NDArray[np.generic]:
    assert value.const_value is not None, f"{value.name} is not stored"
    array: NDArray[np.generic] = value.const_value.numpy()
    return array
