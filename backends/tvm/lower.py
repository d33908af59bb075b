"""A fused decoder → a program: stage tables for decoding, prefill and scoring, and the packed weights.

The tables are made from the same regions. "decode" takes one token; "prefill" many, and computes the logits
of the last; "score" computes the logits of all.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from intaglio.backends.tvm.checks import problems_of
from intaglio.backends.tvm.emit import Emitter
from intaglio.backends.tvm.joints import joints_of
from intaglio.backends.tvm.packing import layout_of
from intaglio.backends.tvm.program import Program, StageTable
from intaglio.backends.tvm.reading import read_regions
from intaglio.backends.tvm.regions import (
    AttentionRegion,
    EmbeddingRegion,
    GatedRegion,
    LinearRegion,
    Region,
    inputs_of,
)
from intaglio.backends.tvm.tables import Pieces, TableBuilder
from intaglio.compiler.errors import UnsupportedModelError

SCORE_TOKENS = 64  # per call: the logits of all of them are kept at once


@dataclass(frozen=True)
class Site:
    """What a region became."""

    site: str
    kind: str
    shape: tuple[int, ...]  # [out, in] of a linear layer
    format: str  # of its weights
    bytes: int  # packed, that one token reads
    kernels: tuple[str, ...]  # for one token and for many


@dataclass(frozen=True)
class Lowered:
    """A program and what is needed to write its weights."""

    program: Program
    sites: tuple[Site, ...]
    pieces: Pieces

    def write_weights(self, path: Path) -> int:
        """Pack the weights into the file `path`; its size in bytes."""
        return self.pieces.arena.write(path)


def lower(model: ir.Model, *, capacity: int, chunk: int) -> Lowered:
    """Lower a fused canonical decoder whose cache holds `capacity` tokens, for prefill in chunks of `chunk`.

    The program is the same for every target: the instruction family is chosen when code is generated.

    Raises:
        UnsupportedModelError: listing every node that has no kernel.
    """
    regions, unreadable = read_regions(model)
    pieces, joints = Pieces(), joints_of(regions)
    if problems := [*unreadable, *problems_of(regions, joints)]:
        raise UnsupportedModelError("lower: no kernels for", problems)
    sizes = (("decode", 1), ("prefill", max(2, chunk)), ("score", max(2, min(chunk, SCORE_TOKENS))))
    logits = next(one for one in model.graph.outputs if one.name == "logits")
    tables = []
    for name, tokens in sizes:
        emitter = Emitter(
            TableBuilder(name, tokens, pieces, readers=_readers(regions)), capacity, logits, joints
        )
        for region in regions:
            emitter.emit(region)
        tables.append(StageTable(name, tokens, tuple(emitter.table.stages)))
    return _lowered(regions, pieces, tuple(tables), capacity, logits)


def _parts(regions: list[Region]) -> list[EmbeddingRegion | LinearRegion | AttentionRegion]:
    """The regions, gate and up by themselves."""
    parts: list[EmbeddingRegion | LinearRegion | AttentionRegion] = []
    for region in regions:
        parts += [region.gate, region.up] if isinstance(region, GatedRegion) else [region]
    return parts


def _readers(regions: list[Region]) -> Counter[ir.Value]:
    return Counter(value for region in regions for value in inputs_of(region))


def _lowered(
    regions: list[Region], pieces: Pieces, tables: tuple[StageTable, ...], capacity: int, logits: ir.Value
) -> Lowered:
    parts = _parts(regions)
    linears = [region for region in parts if isinstance(region, LinearRegion)]
    sites = tuple(_site(region, pieces, tables) for region in parts)
    attention = [region for region in regions if isinstance(region, AttentionRegion)]
    head = next(region for region in linears if region.output is logits)
    program = Program(
        capacity=capacity,
        vocabulary=head.weight.shape[0],
        kernels=tuple(pieces.kernels),
        buffers=pieces.placed(),
        tables=tables,
        weight_bytes=pieces.arena.bytes,
        bytes_per_token=sum(site.bytes for site in sites),
        cache_bytes_per_position=sum(2 * 4 * one.kv_heads * one.head_dim for one in attention),
        multiply_adds_per_token=sum(one.weight.shape[0] * one.weight.shape[1] for one in linears),
    )
    return Lowered(program, sites, pieces)


def _site(
    region: EmbeddingRegion | LinearRegion | AttentionRegion, pieces: Pieces, tables: tuple[StageTable, ...]
) -> Site:
    kinds = (stage.kernel for table in tables for stage in table.stages if stage.site == region.site)
    kernels = tuple(dict.fromkeys(pieces.kernels[kind].name for kind in kinds))
    if isinstance(region, AttentionRegion):
        return Site(region.site, "attention", (), "float32 cache", 0, kernels)
    layout = layout_of(region.weight, 2 if isinstance(region, LinearRegion) and region.gated else 1)
    kind = "embedding" if isinstance(region, EmbeddingRegion) else "linear"
    # A token reads one row of an embedding, and all of a linear layer.
    read = layout.bytes // region.weight.shape[0] if kind == "embedding" else layout.bytes
    return Site(region.site, kind, region.weight.shape, layout.describe(), read, kernels)
