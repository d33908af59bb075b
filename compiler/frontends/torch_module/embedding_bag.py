"""Bags of embeddings as sums, means and maxima over a table of which element is in which bag.

The exporter's rule is a loop over bags with sequences of tensors, at which onnxruntime 1.32 crashes.
"""

from __future__ import annotations

from typing import Any

import torch


def has_no_bound(*args: Any, max_norm: float | None = None, **keywords: Any) -> bool:
    """Whether a call leaves the table as it is, which is changed where its norms are bounded."""
    del keywords
    return max_norm is None and (len(args) < 4 or args[3] is None)


def embedding_bag(
    input: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: torch.Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> torch.Tensor:
    """What `torch.nn.functional.embedding_bag` gives without `max_norm`: `[bags, size]`.

    `input` is `[bags, elements]`, or `[elements]` with the first element of each bag in `offsets`.
    """
    del max_norm, norm_type, scale_grad_by_freq, sparse  # the first is None, the others matter in training
    rows = weight[input]
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[..., None]
    counted = torch.ones_like(input, dtype=torch.bool) if padding_idx is None else input != padding_idx
    if offsets is not None:
        starts = offsets[:-1] if include_last_offset else offsets
        counted = counted & _members(starts, input)
    return _reduced(rows, counted, mode)


def _members(starts: torch.Tensor, elements: torch.Tensor) -> torch.Tensor:
    """bool `[bags, elements]`: an element is in the last bag that starts at it or before it."""
    places = torch.arange(elements.shape[0], device=starts.device)
    bag = (places[None, :] >= starts[:, None]).sum(0) - 1
    return torch.arange(starts.shape[0], device=starts.device)[:, None] == bag[None, :]


def _reduced(rows: torch.Tensor, counted: torch.Tensor, mode: str) -> torch.Tensor:
    """`rows` `[bags, elements, size]` or `[elements, size]`, `counted` `[bags, elements]`; no elements, 0."""
    if mode == "max":
        lowest = torch.finfo(rows.dtype).min
        highest = torch.where(counted[..., None], rows, lowest).amax(-2)
        return torch.where(counted.any(-1, keepdim=True), highest, 0.0)
    shares = counted.to(rows.dtype)
    if mode == "mean":
        shares = shares / shares.sum(-1, keepdim=True).clamp(min=1)
    total = shares[:, None, :] @ rows if rows.dim() > 2 else (shares @ rows)[:, None]
    return total[:, 0]
