"""Tensors of onnx_ir as torch tensors. float32 stands for the working precision; 4-bit codes become bytes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

_DTYPES: Mapping[ir.DataType, torch.dtype] = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.INT64: torch.int64,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.INT4: torch.int8,
    ir.DataType.UINT4: torch.uint8,
}

CODE_RANGES: Mapping[ir.DataType, tuple[int, int]] = {
    ir.DataType.INT4: (-8, 7),
    ir.DataType.UINT4: (0, 15),
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-32768, 32767),
    ir.DataType.UINT16: (0, 65535),
}


def is_supported(dtype: ir.DataType) -> bool:
    """Whether the interpreter has tensors of this element type."""
    return dtype in _DTYPES


def torch_dtype(dtype: ir.DataType, working: torch.dtype) -> torch.dtype:
    """The torch type that stands for `dtype` when float32 is computed in `working`."""
    return working if dtype == ir.DataType.FLOAT else _DTYPES[dtype]


def to_torch(tensor: ir.TensorProtocol, working: torch.dtype) -> Tensor:
    """The values of `tensor`; its memory is shared where numpy allows writing to it."""
    return from_numpy(tensor.numpy(), tensor.dtype).to(torch_dtype(tensor.dtype, working))


def from_numpy(array: NDArray[np.generic], dtype: ir.DataType) -> Tensor:
    """A torch tensor of the elements of `array`, which is of type `dtype`."""
    if dtype == ir.DataType.BFLOAT16:
        return _share(array.view(np.int16)).view(torch.bfloat16)
    if dtype in (ir.DataType.INT4, ir.DataType.UINT4):
        return _share(array.astype(np.int8 if dtype == ir.DataType.INT4 else np.uint8))
    return _share(array)


def split_axis(x: Tensor, axis: int, parts: int) -> Tensor:
    """`x` with `axis` cut into `[parts, size / parts]`; raises `ValueError` where that does not come out."""
    if parts < 1 or x.shape[axis] % parts:
        raise ValueError(f"axis {axis} of shape {list(x.shape)} cannot be cut into {parts} heads or groups")
    return x.reshape([*x.shape[:axis], parts, x.shape[axis] // parts, *x.shape[axis + 1 :]])


def _share(array: NDArray[np.generic]) -> Tensor:
    # torch warns about read-only memory, such as a mapped file: those are copied.
    writable = array if array.flags.writeable and array.flags.c_contiguous else array.copy()
    return torch.from_numpy(writable)
