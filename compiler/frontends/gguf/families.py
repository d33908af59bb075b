"""The architectures whose decoders are read from GGUF files, as data.

Sources: llama.cpp's loaders and converters (`src/models/{name}.cpp`, `conversion/*.py`) for what a file says,
and what holds where it says nothing; transformers' modelling files for what the models compute.
Norms of the gemmas are stored with their 1 added already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from intaglio.compiler.frontends.decoder_graph import Activation


@dataclass(frozen=True)
class WindowRule:
    """Which layers see only the latest tokens, and how many of those."""

    width: int  # where the file gives none: tokens, the own one included; 0: all layers see all
    period: int  # every layer of that number (6: the 6th, the 12th, …) sees everything; 0: none does
    rope_base: float | None = None  # of layers with a window; None: the other layers' base and scale


@dataclass(frozen=True)
class Family:
    """How the files of one architecture are laid out, and what the decoder computes beyond a plain llama."""

    name: str  # as `general.architecture` says it, and transformers' `model_type`
    neighbouring_pairs: bool = (
        False  # a rotated pair stands in neighbouring rows of q and k, not half a head apart
    )
    frequency_factors: bool = False  # there may be a tensor by which rotary frequencies are divided
    context_factors: bool = False  # … or two, one for contexts up to the original length, one for longer ones
    partial_rotary: bool = False  # only the first part of a head may be rotated
    projection_biases: bool = False  # of q, k and v
    head_norms: bool = False  # every head of q and of k is normalised before it is rotated
    outer_norms: bool = False  # attention and MLP are normalised again before they are added
    fused: bool = False  # q, k and v are one tensor; gate and up are another
    activation: Activation = "silu"
    scaled_embedding: bool = False  # by √hidden, but not where the table is the head
    # Soft-caps of scores and logits where the file gives none (0: no cap then); None: it may not give any.
    attention_cap: float | None = None
    logits_cap: float | None = None
    window: WindowRule | None = None
    wide_scale_layers: int | None = (
        None  # with so many layers, scores shrink by √(hidden / heads), not √head_dim
    )


FAMILIES: Mapping[str, Family] = {
    one.name: one
    for one in (
        Family("llama", neighbouring_pairs=True, frequency_factors=True),
        Family("qwen2", projection_biases=True),
        Family("qwen3", head_norms=True),
        Family(
            "phi3",
            fused=True,
            partial_rotary=True,
            context_factors=True,
            window=WindowRule(width=0, period=0),
        ),
        Family("gemma", activation="gelu", scaled_embedding=True),
        Family(
            "gemma2",
            outer_norms=True,
            activation="gelu",
            scaled_embedding=True,
            attention_cap=50.0,
            logits_cap=30.0,
            window=WindowRule(width=4096, period=2),
            wide_scale_layers=46,  # 27B
        ),
        Family(
            "gemma3",
            head_norms=True,
            outer_norms=True,
            activation="gelu",
            scaled_embedding=True,
            logits_cap=0.0,
            window=WindowRule(width=0, period=6, rope_base=10000.0),
            wide_scale_layers=62,  # 27B
        ),
    )
}
