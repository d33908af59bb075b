"""A fused decoder → a program: stage tables for decoding, prefill and scoring, and the packed weights.

The tables are made from the same regions. "decode" takes one token; "prefill" many, and computes the logits
of the last; "short" the same of up to 64; "score" computes the logits of all; "batch" takes one token of each
of several sequences. Nodes without kernels are regions that onnxruntime runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from intaglio.backends.tvm.batches import refuse_batches, table_sizes
from intaglio.backends.tvm.emit import Emitter
from intaglio.backends.tvm.experts import guards_first, guards_of
from intaglio.backends.tvm.joints import joints_of
from intaglio.backends.tvm.partition import partition, row_size
from intaglio.backends.tvm.program import ForeignFile, Program, StageTable
from intaglio.backends.tvm.regions import (
    AttentionRegion,
    ForeignRegion,
    LinearRegion,
    Region,
    RowRegion,
    inputs_of,
    linears_of,
    outputs_of,
)
from intaglio.backends.tvm.sites import Site, sites_of
from intaglio.backends.tvm.tables import Pieces, TableBuilder
from intaglio.kernels.attention.heads import BLOCK, Heads
from intaglio.kernels.ceilings.kernel import CEILINGS


@dataclass(frozen=True)
class Lowered:
    """A program, what is needed to write its weights, and the regions for another backend to write."""

    program: Program
    sites: tuple[Site, ...]
    pieces: Pieces
    foreign: tuple[ForeignRegion, ...]

    def write_weights(self, path: Path) -> int:
        """Pack the weights into the file `path`; its size in bytes."""
        return self.pieces.arena.write(path)


def lower(
    model: ir.Model, *, capacity: int, chunk: int, batch: int = 1, coarse: frozenset[str] = frozenset()
) -> Lowered:
    """Lower a fused canonical decoder whose cache holds `capacity` tokens of each of `batch` sequences.

    Prompts are computed in chunks of `chunk` tokens; at the sites in `coarse` from weights that are
    rounded to one 8-bit grid per row on the way. Table "review" then scores texts as prompts are computed.
    The program is the same for every target: the instruction family is chosen when code is generated.

    Raises:
        UnsupportedModelError: listing every value that the kernels and onnxruntime cannot share, or every
            region of onnxruntime that cannot take several sequences.
    """
    regions = partition(model)
    guards = guards_of(regions)
    regions = guards_first(regions, guards)
    foreign = tuple(one for one in regions if isinstance(one, ForeignRegion))
    refuse_batches(foreign, batch)
    pieces, joints = Pieces(slots=batch), joints_of(regions)
    logits = next(one for one in model.graph.outputs if one.name == "logits")
    numbers = {id(one): index for index, one in enumerate(foreign)}
    tables = []
    for name, tokens in table_sizes(chunk, batch, coarse_prefill=bool(coarse)):
        rounded = coarse if name in ("prefill", "review") else frozenset()
        table = TableBuilder(name, tokens, pieces, rounded, readers=_readers(regions))
        emitter = Emitter(table, capacity, logits, _tail(regions, logits), joints, numbers)
        for region in regions:
            emitter.emit(region, guards.get(id(region)))
        if name not in ("score", "review"):
            emitter.choose()
        tables.append(StageTable(name, tokens, tuple(table.stages), tuple(table.foreign)))
    return _lowered(regions, pieces, tuple(tables), capacity, logits)


def _readers(regions: Sequence[Region]) -> Counter[ir.Value]:
    return Counter(value for region in regions for value in inputs_of(region))


def _tail(regions: Sequence[Region], logits: ir.Value) -> frozenset[ir.Value]:
    """The head's output and what is computed from it: for a prompt, only the last row is wanted."""
    makers = {value: region for region in regions for value in outputs_of(region)}
    readers = _readers(regions)
    tail, pending = {logits}, [logits]
    while pending:
        maker = makers.get(pending.pop())
        if not isinstance(maker, RowRegion):
            continue
        heads = [one for one in inputs_of(maker) if isinstance(makers.get(one), LinearRegion | RowRegion)]
        if len(heads) == len(maker.operands) and all(readers[one] == 1 for one in heads):
            tail.update(heads)
            pending += heads
    return frozenset(tail)


def _lowered(
    regions: Sequence[Region],
    pieces: Pieces,
    tables: tuple[StageTable, ...],
    capacity: int,
    logits: ir.Value,
) -> Lowered:
    for kernel in CEILINGS:
        pieces.kernel(kernel)
    foreign = tuple(one for one in regions if isinstance(one, ForeignRegion))
    sites = sites_of(regions, pieces, tables)
    linears = [one for region in regions for one in linears_of(region)]
    attention = [region for region in regions if isinstance(region, AttentionRegion)]
    buffers, tables = pieces.planned(tables)
    program = Program(
        capacity=capacity,
        batch=pieces.slots,
        vocabulary=row_size(logits),
        kernels=tuple(pieces.kernels),
        buffers=buffers,
        tables=tables,
        weight_bytes=pieces.arena.bytes,
        bytes_per_token=sum(site.bytes for site in sites),
        cache_bytes_per_position=sum(map(_cache_bytes_per_position, attention)),
        multiply_adds_per_token=sum(one.weight.shape[0] * one.weight.shape[1] for one in linears),
        foreign=tuple(
            ForeignFile(f"region-{index}.onnx", one.caches, one.site) for index, one in enumerate(foreign)
        ),
    )
    return Lowered(program, sites, pieces, foreign)


def _cache_bytes_per_position(region: AttentionRegion) -> int:
    heads = Heads(region.heads, region.kv_heads, region.head_dim, BLOCK, 0, cache=region.cache)
    return sum(heads.cache_bytes.values()) // BLOCK
