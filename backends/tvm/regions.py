"""Regions of a fused decoder: what each call of an `intaglio` function asks of the kernels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.compiler.ir import DequantizedWeight
from intaglio.kernels.row_program.program import Step


@dataclass(frozen=True)
class Norm:
    """An RMSNorm, of rows or of heads."""

    weight: ir.Value
    epsilon: float


@dataclass(frozen=True)
class EmbeddingRegion:
    """Rows of a table, by tokens or by positions."""

    site: str
    weight: DequantizedWeight
    output: ir.Value
    source: str = "tokens"
    offset: int = 0  # added to positions


@dataclass(frozen=True)
class LinearRegion:
    """[norm] → [quantise] → linear → [residual add | gate]."""

    site: str
    input: ir.Value
    norm: Norm | None
    activation_group: int | None  # columns that share a run-time scale; none: float32 activations
    weight: DequantizedWeight
    residual: ir.Value | None
    gate: str  # "swiglu", "geglu_erf", "geglu_tanh"; empty: none
    output: ir.Value


@dataclass(frozen=True)
class RowOperand:
    """Columns of rows that other regions made."""

    value: ir.Value
    offset: int = 0
    broadcast: bool = False  # one column for all


@dataclass(frozen=True)
class Rotation:
    """Rotary tables, and which of a head's components they turn."""

    cosine: ir.Value
    sine: ir.Value
    components: int
    interleaved: bool


@dataclass(frozen=True)
class AttentionRegion:
    """[Split] → [bias] → [norm] → [rotary] → cache → attention."""

    site: str
    projections: tuple[RowOperand, ...]  # one that holds q, k and v side by side, or one for each
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    softcap: float
    window: int  # positions to the left that a query sees besides its own; -1: all
    rotation: Rotation | None
    bias: tuple[ir.Value | None, ...]  # of q, k, v; or one for the joint projection; empty: none
    query_norm: Norm | None
    key_norm: Norm | None
    key_cache: ir.Value
    value_cache: ir.Value
    output: ir.Value
    cache: str = "fp32"  # how keys and values are stored, as in `Heads.cache`


@dataclass(frozen=True)
class GatedRegion:
    """Gate and up as linear layers of their own, whose weights could not be merged, then the gate."""

    site: str
    gate: LinearRegion
    up: LinearRegion
    kind: str
    output: ir.Value


@dataclass(frozen=True)
class RowRegion:
    """Arithmetic and norms on rows of `columns` floats."""

    site: str
    columns: int
    operands: tuple[RowOperand, ...]
    vectors: tuple[ir.Value, ...]  # stored
    steps: tuple[Step, ...]
    output: ir.Value

    @property
    def norms(self) -> int:
        """How many steps look at a whole row."""
        return sum(step.op.endswith("_norm") for step in self.steps)


@dataclass(frozen=True)
class ForeignRegion:
    """Nodes without kernels, which onnxruntime runs."""

    site: str
    model: ir.Model  # with the values below, `input_ids`, `position` and caches as inputs
    inputs: tuple[ir.Value, ...]  # rows that other regions made
    outputs: tuple[ir.Value, ...]  # rows that other regions read
    caches: tuple[str, ...]  # inputs of the model that its outputs `….updated` replace
    reasons: tuple[str, ...]  # `node: why it has no kernel`


Region = EmbeddingRegion | LinearRegion | AttentionRegion | GatedRegion | RowRegion | ForeignRegion


def inputs_of(region: Region) -> list[ir.Value]:
    """The values that `region` reads from other regions, each as often as it reads it."""
    if isinstance(region, LinearRegion):
        return [region.input, *([region.residual] if region.residual is not None else [])]
    if isinstance(region, GatedRegion):
        return [region.gate.input, region.up.input]
    if isinstance(region, RowRegion):
        return [one.value for one in region.operands]
    if isinstance(region, ForeignRegion):
        return list(region.inputs)
    return [one.value for one in region.projections] if isinstance(region, AttentionRegion) else []


def outputs_of(region: Region) -> tuple[ir.Value, ...]:
    """The values that `region` makes for others."""
    return region.outputs if isinstance(region, ForeignRegion) else (region.output,)


def linears_of(region: Region) -> Iterator[LinearRegion]:
    """The linear layers in `region`."""
    if isinstance(region, LinearRegion):
        yield region
    elif isinstance(region, GatedRegion):
        yield from (region.gate, region.up)
