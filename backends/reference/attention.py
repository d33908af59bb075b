"""`Attention` of opset 25: grouped queries, caches, masks, windows.

With `p = offset + i` for query `i`, where `offset` counts the keys before the first query (`past` length,
or `nonpad_kv_seqlen - queries`), key `j` is allowed if all of these hold that apply: `j <= p` (causal),
`p - left <= j <= p + right` (window), `j < nonpad_kv_seqlen`, `mask[…, i, j]`. Without any key: zeros.
"""

from __future__ import annotations

import math

import onnx_ir as ir
import torch
from torch import Tensor

from intaglio.backends.reference.call import Call
from intaglio.backends.reference.tensors import split_axis, torch_dtype


def attention(call: Call) -> tuple[Tensor, ...]:
    """Result, present key, present value, and the scores that `qk_matmul_output_mode` picks."""
    query, key, value = (_by_heads(call, one) for one in range(3))
    key, value = _with_past(key, call.optional(4)), _with_past(value, call.optional(5))
    raw = _scores(call, query, key)
    capped = _softcap(raw, call.real("softcap", 0.0))
    allowed, bias = _allowed(call, raw), _bias(call, raw)
    masked = torch.where(allowed, capped + bias, -math.inf)
    weights = _softmax(call, masked, allowed & (bias > -math.inf))
    result = _weighted(weights, value)
    is_flat = call.tensor(0).dim() == 3
    shown = (raw, capped, masked, weights)[call.integer("qk_matmul_output_mode", 0)]
    return result.transpose(1, 2).flatten(2) if is_flat else result, key, value, shown


def _by_heads(call: Call, index: int) -> Tensor:
    # [batch, sequence, heads · size] → [batch, heads, sequence, size]
    x = call.tensor(index)
    if x.dim() == 4:
        return x
    heads = call.integer("q_num_heads" if index == 0 else "kv_num_heads", 0)
    return split_axis(x, 2, heads).transpose(1, 2)


def _with_past(present: Tensor, past: Tensor | None) -> Tensor:
    return present if past is None else torch.cat([past, present], dim=2)


def _scores(call: Call, query: Tensor, key: Tensor) -> Tensor:
    scale = call.real("scale", 0.0) or 1.0 / math.sqrt(query.shape[-1])
    grouped = split_axis(query * scale, 1, key.shape[1])
    return (grouped @ key.unsqueeze(2).mT).flatten(1, 2)


def _weighted(weights: Tensor, value: Tensor) -> Tensor:
    grouped = split_axis(weights, 1, value.shape[1])
    return (grouped @ value.unsqueeze(2)).flatten(1, 2)


def _softcap(scores: Tensor, limit: float) -> Tensor:
    return limit * torch.tanh(scores / limit) if limit else scores


def _softmax(call: Call, scores: Tensor, allowed: Tensor) -> Tensor:
    precision = call.integer("softmax_precision", 0)
    wide = scores.to(torch_dtype(ir.DataType(precision), call.working)) if precision else scores
    # A row without keys must not reach the softmax: its result and its gradient would be NaN.
    empty = ~allowed.any(dim=-1, keepdim=True)
    weights = torch.softmax(torch.where(empty, 0.0, wide), dim=-1)
    return torch.where(empty, 0.0, weights).to(scores.dtype)


def _allowed(call: Call, scores: Tensor) -> Tensor:
    queries, keys = scores.shape[-2:]
    lengths = call.optional(6)
    position = _offset(call, queries) + torch.arange(queries).reshape(1, 1, queries, 1)
    key = torch.arange(keys).reshape(1, 1, 1, keys)
    left, right = call.integer("left_window_size", -1), call.integer("right_window_size", -1)
    allowed = torch.ones_like(scores, dtype=torch.bool)
    allowed = allowed & (key <= position) if call.integer("is_causal", 0) else allowed
    allowed = allowed & (key >= position - left) if left >= 0 else allowed
    allowed = allowed & (key <= position + right) if right >= 0 else allowed
    allowed = allowed if lengths is None else allowed & (key < lengths.reshape(-1, 1, 1, 1))
    mask = call.optional(3)
    return allowed & _padded(mask, keys, 0.0) if mask is not None and mask.dtype == torch.bool else allowed


def _offset(call: Call, queries: int) -> Tensor:
    # [batch or 1, 1, 1, 1]
    past, lengths = call.optional(4), call.optional(6)
    if past is not None:
        return torch.full((1, 1, 1, 1), past.shape[2])
    return torch.zeros(1, 1, 1, 1) if lengths is None else lengths.reshape(-1, 1, 1, 1) - queries


def _bias(call: Call, scores: Tensor) -> Tensor:
    mask = call.optional(3)
    if mask is None or mask.dtype == torch.bool:
        return torch.zeros((), dtype=scores.dtype)
    return _padded(mask, scores.shape[-1], -math.inf).to(scores.dtype)


def _padded(mask: Tensor, keys: int, filling: float) -> Tensor:
    # A mask may be shorter than the cache; what it does not cover is not attended.
    return torch.nn.functional.pad(mask, (0, keys - mask.shape[-1]), value=filling)
