"""Regions of a fused decoder: what each call of an `intaglio` function asks of the kernels."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from intaglio.compiler.ir import DequantizedWeight


@dataclass(frozen=True)
class Norm:
    """An RMSNorm before a linear layer."""

    weight: ir.Value
    epsilon: float


@dataclass(frozen=True)
class EmbeddingRegion:
    """Rows of a table."""

    site: str
    weight: DequantizedWeight
    output: ir.Value


@dataclass(frozen=True)
class LinearRegion:
    """[norm] → [quantise] → linear → [residual add | SwiGLU]."""

    site: str
    input: ir.Value
    norm: Norm | None
    activation_group: int | None  # columns that share a run-time scale; none: float32 activations
    weight: DequantizedWeight
    residual: ir.Value | None
    gated: bool
    output: ir.Value


@dataclass(frozen=True)
class AttentionRegion:
    """Split → rotary → cache → attention."""

    site: str
    projections: tuple[ir.Value, ...]  # one joint projection, or q, k, v
    heads: int
    kv_heads: int
    head_dim: int
    cosine: ir.Value
    sine: ir.Value
    key_cache: ir.Value
    value_cache: ir.Value
    output: ir.Value


@dataclass(frozen=True)
class GatedRegion:
    """Gate and up as linear layers of their own, whose weights could not be merged, then SwiGLU."""

    site: str
    gate: LinearRegion
    up: LinearRegion
    output: ir.Value


Region = EmbeddingRegion | LinearRegion | AttentionRegion | GatedRegion


def inputs_of(region: Region) -> list[ir.Value]:
    """The values that `region` reads from other regions, each as often as it reads it."""
    if isinstance(region, LinearRegion):
        return [region.input, *([region.residual] if region.residual is not None else [])]
    if isinstance(region, GatedRegion):
        return [region.gate.input, region.up.input]
    return list(region.projections) if isinstance(region, AttentionRegion) else []
