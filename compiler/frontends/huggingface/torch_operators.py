"""Torch operators that stand for ONNX ones while a model is traced; they have shapes and no kernels."""

from __future__ import annotations

import functools

import torch

ATTENTION = "intaglio::causal_attention"
ROWS_LIKE = "intaglio::rows_like"


@functools.cache
def define_operators() -> None:
    """Make torch know the operators; once per process, since torch keeps them for its life.

    - `causal_attention(query, key, value, scale, softcap, window)`: all `[batch, heads, sequence, size]`;
      `window` earlier tokens are seen, all of them where it is -1; a `softcap` of 0 is none;
    - `rows_like(flat, like)`: `[rows, n]` as `[batch, sequence, n]`, `like` having the first two sizes.
    `reshape`
      would have torch wonder whether sequences may be empty.
    """
    torch.library.define(
        ATTENTION,
        "(Tensor query, Tensor key, Tensor value, float scale, float softcap, int window) -> Tensor",
    )
    torch.library.register_fake(ATTENTION, _attended)
    torch.library.define(ROWS_LIKE, "(Tensor flat, Tensor like) -> Tensor")
    torch.library.register_fake(ROWS_LIKE, _rows_like)


def _attended(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, softcap: float, window: int
) -> torch.Tensor:
    del key, scale, softcap, window
    return query.new_empty((*query.shape[:3], value.shape[-1]))


def _rows_like(flat: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return flat.new_empty((*like.shape[:-1], flat.shape[-1]))
