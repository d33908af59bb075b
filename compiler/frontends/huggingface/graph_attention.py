"""Attention and masks of traced graphs: what transformers' models call for both while they are exported.

Unlike in decoders with a cache, sequences may be padded, look both ways or at another sequence, and carry a
bias by position. All of it becomes ONNX `Attention`: causal by its attribute, everything else by `attn_mask`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.frontends.huggingface.causal_attention import UNBOUNDED, visible
from intaglio.compiler.ir.functions import OPSET

NAME = "intaglio_graph"
_OPERATOR = "intaglio::attention"
_SCHEMA = (
    "(Tensor query, Tensor key, Tensor value, Tensor? mask, bool causal, float scale, float softcap, "
    "int window) -> Tensor"
)
_GRID = 192  # positions for which a mask is compared in full
# What attention functions get and ignore.
_HARMLESS = {"position_ids", "cache_position", "position_embeddings"}


@dataclass(frozen=True)
class Mask:
    """What a query may see; no tensor, so that models that do without our attention cannot misread it."""

    keys: torch.Tensor | None  # bool [batch, 1, 1 or queries, keys], true for what is seen; none: all of it
    causal: bool = False  # … of the token itself and those before it
    earlier: int | None = None  # … and of those before it, only so many


@cache
def attention_translations() -> Mapping[Callable[..., Any], Callable[..., Any]]:
    """How the operator becomes ONNX, for `export_module`."""
    return {_operator(): _translate}


@contextmanager
def graph_attention(longest: int) -> Iterator[str]:
    """While it lasts, transformers knows these functions by the name that is given.

    Masks are examined up to `longest` tokens.
    """
    _operator()
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _MaskMaker(longest))
    try:
        yield NAME
    finally:
        AttentionInterface._global_mapping.pop(NAME)
        AttentionMaskInterface._global_mapping.pop(NAME)


@cache
def _operator() -> Callable[..., Any]:
    # Defined on first use: importing this module registers nothing with PyTorch.
    torch.library.define(_OPERATOR, _SCHEMA)
    torch.library.register_fake(_OPERATOR, _shape)
    overload: Callable[..., Any] = torch.ops.intaglio.attention.default
    return overload


def _shape(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *others: Any) -> torch.Tensor:
    del key, others
    return query.new_empty((*query.shape[:3], value.shape[-1]))


def _translate(
    query: Any, key: Any, value: Any, mask: Any, causal: bool, scale: float, softcap: float, window: int
) -> Any:
    import onnxscript

    attributes: dict[str, Any] = {"scale": scale}
    attributes |= {"is_causal": 1} if causal else {}
    attributes |= {"softcap": softcap} if softcap else {}
    attributes |= {} if window == UNBOUNDED else {"left_window_size": window}
    return onnxscript.values.Opset("", OPSET).Attention(query, key, value, mask, **attributes)[0]


@dataclass(frozen=True)
class _MaskMaker:
    longest: int

    def __call__(
        self,
        mask_function: Callable[..., Any] | None = None,
        attention_mask: torch.Tensor | None = None,
        **others: Any,
    ) -> Mask:
        if mask_function is None or others.get("q_offset", 0) or others.get("kv_offset", 0):
            raise UnsupportedModelError(
                "attention: a mask with an offset or without a rule has no meaning here."
            )
        padding = None if attention_mask is None else attention_mask.to(torch.bool)[:, None, None, :]
        with ThreadPoolExecutor(1) as outside:  # in another thread nothing is being traced
            rule = outside.submit(_rule, mask_function, self.longest).result()
        if rule == "all":
            return Mask(padding)
        if rule is None or isinstance(rule, int):
            return Mask(padding, True, rule)
        lengths = others["q_length"], others["kv_length"]
        return Mask(_by_position(mask_function, padding, lengths, others.get("device")))


def _rule(mask_function: Callable[..., Any], longest: int) -> int | str | None:
    """How many earlier tokens a causal mask lets through, "all" for any token, else "other"."""
    grid = torch.arange(_GRID)
    zero = torch.zeros((), dtype=torch.int64)
    try:
        mask = torch.as_tensor(mask_function(zero, zero, grid[:, None], grid[None, :]))
    except Exception as error:
        raise UnsupportedModelError(f"attention: a mask depends on more than positions ({error}).") from error
    if bool(mask.all()):
        return "all"
    if bool(mask.triu(1).any()):
        return "other"
    return visible(mask_function, longest).earlier


def _by_position(
    mask_function: Callable[..., Any], padding: torch.Tensor | None, lengths: tuple[Any, Any], device: Any
) -> torch.Tensor:
    """The mask as a tensor; every token sees itself, so that no row of padding is without anything to see."""
    zero = torch.zeros((), dtype=torch.int64, device=device)
    queries, keys = (torch.arange(length, device=device) for length in lengths)
    row, column = queries[:, None], keys[None, :]
    mask: torch.Tensor = torch.as_tensor(mask_function(zero, zero, row, column))[None, None]
    return mask if padding is None else (mask & padding) | (row == column)[None, None]


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Mask | torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    position_bias: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """`query` `[batch, heads, queries, size]`, the result `[batch, queries, heads, size]`."""
    del dropout  # models are in eval mode
    extra = [name for name, one in others.items() if isinstance(one, torch.Tensor) and name not in _HARMLESS]
    if extra:
        kind = type(module).__name__
        raise UnsupportedModelError(
            f"attention: {kind} takes {', '.join(extra)}, which the operator Attention has no input for."
        )
    mask, causal, earlier = _mask(module, query, attention_mask, sliding_window, is_causal)
    if position_bias is not None:
        mask = position_bias if mask is None else torch.where(mask, position_bias, _lowest(position_bias))
    mixed = torch.ops.intaglio.attention(
        query,
        key,
        value,
        mask,
        causal,
        float(query.shape[-1] ** -0.5 if scaling is None else scaling),
        float(softcap or 0.0),
        UNBOUNDED if earlier is None else earlier,
    )
    return mixed.transpose(1, 2).contiguous(), None


def _mask(
    module: torch.nn.Module,
    query: torch.Tensor,
    given: Mask | torch.Tensor | None,
    sliding_window: int | None,
    is_causal: bool | None,
) -> tuple[torch.Tensor | None, bool, int | None]:
    """The mask as a tensor, whether attention is causal, and how many earlier tokens it reaches."""
    if isinstance(given, Mask):
        return (_with_itself(given.keys, query) if given.causal else given.keys), given.causal, given.earlier
    if given is not None:
        return given, False, None
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    window = sliding_window if causal else None
    return None, causal, None if window is None else window - 1


def _with_itself(padding: torch.Tensor | None, query: torch.Tensor) -> torch.Tensor | None:
    """`[batch, 1, queries, keys]`: real tokens, and for each query itself.

    A query among the padding before a sequence would otherwise see nothing, and its softmax be no number.
    """
    if padding is None:
        return None
    place = torch.arange(query.shape[2], device=query.device)
    return padding | (place[:, None] == place[None, :])[None, None]


def _lowest(bias: torch.Tensor) -> torch.Tensor:
    return torch.full((), torch.finfo(bias.dtype).min, dtype=bias.dtype, device=bias.device)
