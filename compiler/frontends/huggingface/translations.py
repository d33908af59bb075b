"""How operators of a traced decoder become ONNX, where the exporter has no rule or hides what they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnxscript
import torch

from intaglio.compiler.frontends.huggingface.torch_operators import define_operators
from intaglio.compiler.ir.functions import OPSET


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Functions over onnxscript values by torch operator, for `export_module`."""
    define_operators()
    aten = torch.ops.aten
    return {
        torch.ops.intaglio.causal_attention.default: _attention,
        torch.ops.intaglio.rows_like.default: _rows_like,
        aten.linear.default: _linear,
        aten.split.Tensor: _split,
        aten.split_with_sizes.default: _split_with_sizes,
    }


def _op() -> Any:
    return onnxscript.values.Opset("", OPSET)


def _attention(query: Any, key: Any, value: Any, scale: float, softcap: float, window: int) -> Any:
    outputs = _op().Attention(
        query, key, value, is_causal=1, scale=scale, softcap=softcap, left_window_size=window
    )
    return outputs[0]


def _rows_like(flat: Any, like: Any) -> Any:
    leading = _op().Shape(like, start=0, end=-1)
    return _op().Reshape(flat, _op().Concat(leading, _op().Constant(value_ints=[-1]), axis=0))


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """Never `Gemm`, whatever the rank, so that every linear layer looks alike."""
    product = _op().MatMul(x, _op().Transpose(weight, perm=[1, 0]))
    return product if bias is None else _op().Add(product, bias)


def _split(x: Any, size: int, dim: int = 0) -> Any:
    """`Split` instead of a sequence of tensors; the length of the axis must be known."""
    length = x.shape[dim]
    whole, rest = divmod(int(length), size)
    return _split_with_sizes(x, [size] * whole + ([rest] if rest else []), dim)


def _split_with_sizes(x: Any, sizes: Sequence[int], dim: int = 0) -> Any:
    """`num_outputs` is there for the recorder, which needs it; `tidy` takes it out again."""
    if len(sizes) == 1:
        return [_op().Identity(x)]
    parts = _op().Constant(value_ints=list(sizes))
    return list(_op().Split(x, parts, axis=dim, num_outputs=len(sizes)))
