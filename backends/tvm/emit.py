"""Regions → stages of one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.backends.tvm.emit_attention import AttentionEmitter
from intaglio.backends.tvm.emit_linear import LinearEmitter
from intaglio.backends.tvm.emit_rows import RowEmitter, stride_of
from intaglio.backends.tvm.joints import Joint
from intaglio.backends.tvm.packing import layout_of
from intaglio.backends.tvm.partition import row_size, tail_columns
from intaglio.backends.tvm.program import Buffer, Exchange, Guard
from intaglio.backends.tvm.regions import (
    AttentionRegion,
    EmbeddingRegion,
    ForeignRegion,
    GatedRegion,
    LinearRegion,
    Region,
    RowOperand,
    RowRegion,
)
from intaglio.backends.tvm.stored import StoredBuffers
from intaglio.backends.tvm.tables import FLOAT, Place, TableBuilder
from intaglio.kernels.choose.kernel import BlockMaxima
from intaglio.kernels.embedding.kernel import FloatEmbedding, QuantizedEmbedding
from intaglio.kernels.linear.layout import QuantizedWeight


@dataclass
class Emitter:
    """Appends regions, in which `intaglio.backends.tvm.checks` found no problem, to a table."""

    table: TableBuilder
    capacity: int
    logits: ir.Value
    tail: frozenset[ir.Value]  # what only the logits need: the head's output, and what follows it
    joints: Mapping[ir.Value, Joint]  # where q, k and v go when they are projections of their own
    foreign: Mapping[int, int]  # numbers of the regions that onnxruntime runs, by `id`

    def emit(self, region: Region, guard: RowOperand | None) -> None:
        """Append `region`; for one token it is skipped where `guard` is zero."""
        self.table.guarded_by(self._guard(guard))
        if isinstance(region, EmbeddingRegion):
            self._embedding(region)
        elif isinstance(region, LinearRegion):
            self._linears.emit(region)
        elif isinstance(region, GatedRegion):
            self._linears.emit_gated(region)
        elif isinstance(region, RowRegion):
            self._rows.emit(region)
        elif isinstance(region, AttentionRegion):
            AttentionEmitter(self.table, self.capacity, self._rows).emit(region)
        else:
            self._foreign(region)
        self.table.end_region()

    def choose(self) -> None:
        """Append what finds the likeliest tokens: the maxima of the logits' blocks."""
        place = self.table.places[self.logits]
        kernel = BlockMaxima(row_size(self.logits), place.stride)
        rows = self.table.rows if place.rows == "all" else 1
        maxima = self.table.pieces.buffer(Buffer("maxima", "maxima", FLOAT * rows * kernel.padded))
        site = self.table.stages[-1].site if self.table.stages else "logits"
        self.table.guarded_by(None)
        self.table.wait()
        count = 0 if place.rows == "all" else 1
        self.table.add(kernel, [place.buffer, maxima], site, barrier=False, count=count)

    def _guard(self, operand: RowOperand | None) -> Guard | None:
        place = None if operand is None or not self.table.single else self.table.places[operand.value]
        if operand is None or place is None or place.rows != "shared":
            return None
        return Guard(place.buffer, place.offset + operand.offset)

    @property
    def _rows(self) -> RowEmitter:
        return RowEmitter(self.table, self.logits)

    @property
    def _linears(self) -> LinearEmitter:
        return LinearEmitter(self.table, self._rows, self.tail, self.joints)

    def _embedding(self, region: EmbeddingRegion) -> None:
        layout = layout_of(region.weight, 1)
        stride = stride_of(layout.columns)
        place = self.table.new(region.output, stride)
        source = "rows" if self.table.batched and region.source == "positions" else region.source
        kernel = (
            QuantizedEmbedding(layout, stride, source, region.offset)
            if isinstance(layout, QuantizedWeight)
            else FloatEmbedding(layout, stride, source, region.offset)
        )
        weights = StoredBuffers(self.table.pieces).weight(region.weight, layout)
        tokens = []
        if source != "positions":
            tokens = [self.table.given("tokens" if source == "tokens" else "positions")]
        self.table.add(kernel, [*weights, *tokens, place.buffer], region.site, barrier=True)

    def _foreign(self, region: ForeignRegion) -> None:
        given = [(one, self.table.read(one)) for one in region.inputs]
        single = any(place.rows != "all" for _, place in given) or self.table.single
        inputs = [_exchange(value, place, single) for value, place in given]
        outputs = [_exchange(one, self._output(one, single), single) for one in region.outputs]
        self.table.call_foreign(self.foreign[id(region)], inputs, outputs)

    def _output(self, value: ir.Value, single: bool) -> Place:
        if value is self.logits:
            return self._rows.logits_place(row_size(value))
        return self.table.new(value, stride_of(row_size(value)), "shared" if single else "all")


def _exchange(value: ir.Value, place: Place, single: bool) -> Exchange:
    shape = tail_columns(value)
    assert shape is not None, "checked by partition"
    return Exchange(str(value.name), place.buffer, place.stride, place.offset, shape, single)
