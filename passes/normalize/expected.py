"""What a source promises that normalisation will find."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Expected:
    """How many of each canonical op there must be afterwards; `None` where the source does not say."""

    attentions: int | None = None
    rotary_embeddings: int | None = None
    norms: int | None = None  # RMSNormalization and LayerNormalization
    gated: int | None = None  # gated MLPs: SwiGLU and GeGLU
