"""`QuantizeLinear`, `DequantizeLinear` and casts, per tensor, per axis or in blocks."""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch import Tensor

from intaglio.backends.reference.call import Call
from intaglio.backends.reference.tensors import CODE_RANGES, torch_dtype


def dequantize_linear(call: Call) -> Tensor:
    """`(codes - zero_point) · scale`, in the scale's type or `output_dtype`."""
    codes, scale, zero_point = call.tensor(0), call.tensor(1), call.optional(2)
    declared = call.integer("output_dtype", 0)
    result = torch_dtype(ir.DataType(declared), call.working) if declared else scale.dtype
    shifted = (
        codes if zero_point is None else codes.to(torch.int32) - _spread(call, zero_point).to(torch.int32)
    )
    return shifted.to(result) * _spread(call, scale).to(result)


def quantize_linear(call: Call) -> Tensor:
    """`Round(x / scale) + zero_point`, half to even, limited to the range of the result's type."""
    x, scale, zero_point = call.tensor(0), call.tensor(1), call.optional(2)
    declared = call.integer("precision", 0)
    precision = torch_dtype(ir.DataType(declared), call.working) if declared else scale.dtype
    rounded = torch.round(x.to(precision) / _spread(call, scale).to(precision))
    result = quantized_type(call.node, call.integer("output_dtype", 0))
    assert result is not None, "checked when the session was made"
    shifted = rounded if zero_point is None else rounded + _spread(call, zero_point).to(precision)
    return shifted.clamp(*CODE_RANGES[result]).to(torch_dtype(result, call.working))


def quantized_type(node: ir.Node, output_dtype: int) -> ir.DataType | None:
    """The type of `QuantizeLinear`'s result; none if the graph leaves it open."""
    if output_dtype:
        return ir.DataType(output_dtype)
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    return ir.DataType.UINT8 if zero_point is None else zero_point.dtype


def cast(call: Call) -> Tensor:
    """To another element type: towards zero into integers; 4-bit types keep their four bits."""
    return _cast(call, ir.DataType(call.integer("to", 0)))


def cast_like(call: Call) -> Tensor:
    """To the type of the second input."""
    declared = call.declared_type(1)
    if declared in (ir.DataType.INT4, ir.DataType.UINT4):
        return _cast(call, declared)
    return call.tensor(0).to(call.tensor(1).dtype)


def _cast(call: Call, dtype: ir.DataType) -> Tensor:
    x = call.tensor(0)
    if dtype == ir.DataType.UINT4:
        return (x.to(torch.int32) & 15).to(torch.uint8)
    if dtype == ir.DataType.INT4:
        return (((x.to(torch.int32) & 15) ^ 8) - 8).to(torch.int8)
    return x.to(torch_dtype(dtype, call.working))


def _spread(call: Call, blocks: Tensor) -> Tensor:
    """Scales or zero points `[…]`, one per tensor, per index of `axis` or per block, shaped to broadcast."""
    shape = call.tensor(0).shape
    if blocks.numel() == 1:
        return blocks.reshape(())
    axis, block_size = call.integer("axis", 1) % len(shape), call.integer("block_size", 0)
    if not block_size:
        return blocks.reshape([-1 if one == axis else 1 for one in range(len(shape))])
    return blocks.repeat_interleave(block_size, dim=axis).narrow(axis, 0, shape[axis])
