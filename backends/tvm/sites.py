"""What became of each site of a model: for reports and explanations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from intaglio.backends.tvm.packing import layout_of
from intaglio.backends.tvm.partition import row_size
from intaglio.backends.tvm.program import StageTable
from intaglio.backends.tvm.regions import (
    AttentionRegion,
    EmbeddingRegion,
    ForeignRegion,
    GatedRegion,
    LinearRegion,
    Region,
    RowRegion,
)
from intaglio.backends.tvm.tables import Pieces

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Site:
    """What a region became."""

    site: str
    kind: str
    shape: tuple[int, ...]  # [out, in] of a linear layer
    format: str  # of its weights
    bytes: int  # packed, that one token reads
    kernels: tuple[str, ...]  # for one token and for many
    backend: str = "tvm"
    reason: str = ""  # why no kernel computes it
    handover_bytes: int = 0  # per token, into its region of onnxruntime and back


def sites_of(regions: Sequence[Region], pieces: Pieces, tables: tuple[StageTable, ...]) -> tuple[Site, ...]:
    """The sites of all regions, in the order in which they run."""
    return tuple(site for region in regions for site in _sites(region, pieces, tables))


def _sites(region: Region, pieces: Pieces, tables: tuple[StageTable, ...]) -> Iterator[Site]:
    if isinstance(region, GatedRegion):
        yield from (_linear(one, pieces, tables) for one in (region.gate, region.up))
    elif isinstance(region, LinearRegion | EmbeddingRegion):
        yield _linear(region, pieces, tables)
    elif isinstance(region, AttentionRegion):
        kernels = _kernels(region.site, pieces, tables)
        yield Site(region.site, "attention", (), f"{region.cache} cache", 0, kernels)
    elif isinstance(region, RowRegion):
        kernels = _kernels(region.site, pieces, tables)
        yield Site(region.site, "rows", (region.columns,), "", 0, kernels)
    else:
        yield from _foreign(region)


def _linear(region: LinearRegion | EmbeddingRegion, pieces: Pieces, tables: tuple[StageTable, ...]) -> Site:
    gated = isinstance(region, LinearRegion) and bool(region.gate)
    layout = layout_of(region.weight, 2 if gated else 1)
    kind = "embedding" if isinstance(region, EmbeddingRegion) else "linear"
    # A token reads one row of an embedding, and all of a linear layer.
    read = layout.bytes // region.weight.shape[0] if kind == "embedding" else layout.bytes
    kernels = _kernels(region.site, pieces, tables)
    return Site(region.site, kind, region.weight.shape, layout.describe(), read, kernels)


def _foreign(region: ForeignRegion) -> Iterator[Site]:
    """A site for every node: each is explained; the hand-over is the region's."""
    handover = FLOAT * sum(row_size(one) for one in (*region.inputs, *region.outputs))
    for entry in region.reasons:
        site, _, reason = entry.partition(": ")
        yield Site(site, "foreign", (), "", 0, (), "onnxruntime", reason, handover)


def _kernels(site: str, pieces: Pieces, tables: tuple[StageTable, ...]) -> tuple[str, ...]:
    used = (stage.kernel for table in tables for stage in table.stages if stage.site == site)
    return tuple(dict.fromkeys(pieces.kernels[index].name for index in used))
