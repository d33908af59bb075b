"""Normalisations and rotary embedding."""

from __future__ import annotations

import torch
from torch import Tensor

from intaglio.backends.reference.call import Call
from intaglio.backends.reference.tensors import split_axis


def rms_normalization(call: Call) -> Tensor:
    """`x / sqrt(mean(x²) + epsilon) · scale`; all but the scaling in float32 or better."""
    x = call.tensor(0)
    wide = x.to(torch.promote_types(x.dtype, call.working))
    mean = wide.square().mean(dim=_axes(call, x), keepdim=True)
    normalized = wide / torch.sqrt(mean + call.real("epsilon", 1e-5))
    return normalized.to(x.dtype) * call.tensor(1)


def layer_normalization(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """The normalised tensor, the means, and the inverse standard deviations."""
    x, bias = call.tensor(0), call.optional(2)
    wide = x.to(torch.promote_types(x.dtype, call.working))
    mean = wide.mean(dim=_axes(call, x), keepdim=True)
    variance = (wide - mean).square().mean(dim=_axes(call, x), keepdim=True)
    inverse = torch.rsqrt(variance + call.real("epsilon", 1e-5))
    scaled = ((wide - mean) * inverse).to(x.dtype) * call.tensor(1)
    return scaled if bias is None else scaled + bias, mean, inverse


def rotary_embedding(call: Call) -> Tensor:
    """Pairs of the last axis rotated by the angles of their position; 4-D, or 3-D with `num_heads`."""
    x = call.tensor(0)
    heads = x if x.dim() == 4 else split_axis(x, 2, call.integer("num_heads", 0)).transpose(1, 2)
    width = call.integer("rotary_embedding_dim", 0) or heads.shape[-1]
    cos, sin = (_angles(call, one) for one in (1, 2))
    rotated = _rotate(heads[..., :width], cos, sin, bool(call.integer("interleaved", 0)))
    result = torch.cat([rotated, heads[..., width:]], dim=-1)
    return result if x.dim() == 4 else result.transpose(1, 2).flatten(2)


def _angles(call: Call, index: int) -> Tensor:
    # [batch, 1, sequence, width / 2]
    table, positions = call.tensor(index), call.optional(3)
    return (table if positions is None else table[positions]).unsqueeze(1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, dim=-1)
    real, imaginary = cos * first - sin * second, sin * first + cos * second
    if interleaved:
        return torch.stack([real, imaginary], dim=-1).flatten(-2)
    return torch.cat([real, imaginary], dim=-1)


def _axes(call: Call, x: Tensor) -> list[int]:
    return list(range(call.integer("axis", -1) % x.dim(), x.dim()))
