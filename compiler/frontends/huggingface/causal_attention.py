"""Attention as one operator: what transformers' models call for attention and masks while they are traced.

A model asks its mask function for a mask and hands that to its attention function. The mask function here
finds out which earlier tokens the mask lets through, and returns that instead of a tensor; the attention
function makes one `intaglio::causal_attention` of it, which becomes ONNX `Attention`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from transformers import AttentionInterface, AttentionMaskInterface, masking_utils

from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.frontends.huggingface.torch_operators import define_operators

NAME = "intaglio"
UNBOUNDED = -1
_GRID = 192  # positions for which a mask is compared in full
_HARMLESS = {
    "position_ids",
    "cache_position",
    "position_embeddings",
}  # what attention functions get and ignore


@dataclass(frozen=True)
class Visible:
    """What a causal mask lets through: the token itself and `earlier` tokens before it, or all of them."""

    earlier: int | None


@contextmanager
def traced_attention(context: int) -> Iterator[str]:
    """While it lasts, transformers knows these functions by the name that is given.

    Masks are examined up to `context` tokens. Positions always count from zero here, so that a model need not
    look for several sequences packed into one.
    """
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _MaskReader(context))
    define_operators()
    try:
        with mock.patch.object(masking_utils, "find_packed_sequence_indices", return_value=None):
            yield NAME
    finally:
        AttentionInterface._global_mapping.pop(NAME)
        AttentionMaskInterface._global_mapping.pop(NAME)


@dataclass(frozen=True)
class _MaskReader:
    context: int

    def __call__(self, mask_function: Callable[..., Any] | None = None, **others: Any) -> Visible:
        if mask_function is None or others.get("q_offset", 0) or others.get("kv_offset", 0):
            raise UnsupportedModelError(
                "attention: a mask with an offset or without a rule has no meaning here."
            )
        with ThreadPoolExecutor(1) as outside:  # in another thread nothing is being traced
            return outside.submit(visible, mask_function, self.context).result()


def visible(mask_function: Callable[..., Any], context: int) -> Visible:
    """What `mask_function(batch, head, query, key)`, of int64 tensors, lets through in `context` tokens.

    Raises `UnsupportedModelError` for masks that are not causal with at most a window.
    """
    last = max(context, 2 * _GRID) - 1
    try:
        row = _mask(mask_function, torch.tensor([last]), torch.arange(last + 1))[0]
        grid = torch.cat([torch.arange(_GRID), torch.tensor([last // 2, last])])
        found = _mask(mask_function, grid, grid)
    except Exception as error:
        raise UnsupportedModelError(f"attention: a mask depends on more than positions ({error}).") from error
    earlier = int(row.sum()) - 1
    distance = grid[:, None] - grid[None, :]
    if not torch.equal(found, (distance >= 0) & (distance <= earlier)):
        raise UnsupportedModelError("attention: a mask is not causal with at most a sliding window.")
    return Visible(None if earlier == last else earlier)


def _mask(mask_function: Callable[..., Any], query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    zero = torch.zeros((), dtype=torch.int64)
    mask = mask_function(zero, zero, query[:, None], key[None, :])
    return torch.as_tensor(mask).expand(len(query), len(key))


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Visible | torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """`query` `[batch, heads, sequence, size]`, the result `[batch, sequence, heads, size]`."""
    del dropout  # models are in eval mode
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    problem = _problem(attention_mask, causal, others)
    if problem is not None:
        raise UnsupportedModelError(f"attention: {type(module).__name__} {problem}.")
    if isinstance(attention_mask, Visible):
        earlier = attention_mask.earlier
    else:
        earlier = None if sliding_window is None else sliding_window - 1
    mixed = torch.ops.intaglio.causal_attention(
        query,
        key,
        value,
        float(query.shape[-1] ** -0.5 if scaling is None else scaling),
        float(softcap or 0.0),
        UNBOUNDED if earlier is None else earlier,
    )
    return mixed.transpose(1, 2).contiguous(), None


def _problem(mask: Visible | torch.Tensor | None, causal: bool, others: dict[str, Any]) -> str | None:
    extra = [
        name for name, value in others.items() if isinstance(value, torch.Tensor) and name not in _HARMLESS
    ]
    if extra:
        return f"takes {', '.join(extra)}, which the operator Attention has no input for"
    if isinstance(mask, torch.Tensor):
        return "makes a mask of its own"
    return "looks at later tokens" if mask is None and not causal else None
