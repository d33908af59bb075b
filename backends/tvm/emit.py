"""Regions → stages of one table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.backends.tvm.joints import Joint
from intaglio.backends.tvm.packing import Layout, layout_of
from intaglio.backends.tvm.program import Buffer
from intaglio.backends.tvm.regions import (
    AttentionRegion,
    EmbeddingRegion,
    GatedRegion,
    LinearRegion,
    Norm,
    Region,
)
from intaglio.backends.tvm.stored import StoredBuffers
from intaglio.backends.tvm.tables import Place, TableBuilder
from intaglio.kernels.attention.cache import BLOCK, Heads, RotateAndCache
from intaglio.kernels.attention.combine import CombineAttention
from intaglio.kernels.attention.decode import DecodeAttention
from intaglio.kernels.attention.prefill import PrefillAttention
from intaglio.kernels.embedding.kernel import FloatEmbedding, QuantizedEmbedding
from intaglio.kernels.linear.dequantized import DequantizedMatrixMatrix, DequantizedMatrixVector
from intaglio.kernels.linear.floating import FloatLinear
from intaglio.kernels.linear.layout import ROWS, FloatWeight, QuantizedWeight
from intaglio.kernels.linear.matrix_matrix import QuantizedMatrixMatrix
from intaglio.kernels.linear.matrix_vector import QuantizedMatrixVector
from intaglio.kernels.quantize_activation.kernel import QuantizeActivation
from intaglio.kernels.rms_norm.kernel import RmsNorm
from intaglio.kernels.swiglu.kernel import SwiGlu

FLOAT = 4  # bytes


def stride_of(columns: int) -> int:
    """Floats from token to token: whole vectors."""
    return -(-columns // ROWS) * ROWS


@dataclass
class Emitter:
    """Appends regions to a table."""

    table: TableBuilder
    capacity: int
    logits: ir.Value
    joints: Mapping[ir.Value, Joint]  # where q, k and v go when they are projections of their own

    @property
    def stored(self) -> StoredBuffers:
        """Buffers of the weight arena and of the state."""
        return StoredBuffers(self.table.pieces)

    def emit(self, region: Region) -> None:
        """Append `region`, in which `intaglio.backends.tvm.checks` found no problem."""
        if isinstance(region, EmbeddingRegion):
            self._embedding(region)
        elif isinstance(region, LinearRegion):
            self._linear(region)
        elif isinstance(region, GatedRegion):
            self._gated(region)
        else:
            self._attention(region)
        self.table.end_region()

    def _embedding(self, region: EmbeddingRegion) -> None:
        layout = layout_of(region.weight, 1)
        stride = stride_of(layout.columns)
        place = self.table.new(region.output, stride)
        tokens = self.table.pieces.buffer(Buffer("tokens", "tokens", FLOAT * self.table.tokens))
        buffers = [*self.stored.weight(region.weight, layout), tokens, place.buffer]
        kernel = (
            QuantizedEmbedding(layout, stride)
            if isinstance(layout, QuantizedWeight)
            else FloatEmbedding(layout, stride)
        )
        self.table.add(kernel, buffers, region.site, barrier=True)

    def _linear(self, region: LinearRegion) -> None:
        layout = layout_of(region.weight, 2 if region.gated else 1)
        is_head = region.output is self.logits
        single = self.table.single or (is_head and self.table.name == "prefill")
        source = self.table.read(region.input)
        if region.norm is not None:
            source = self._norm(region.site, region.norm, layout.columns, source, last=single)
        self._product(region, layout, source, self._target(region, layout), single)

    def _target(self, region: LinearRegion, layout: Layout) -> Place:
        if region.residual is not None:
            return self.table.take_over(region.residual, region.output)
        if region.output is self.logits:
            return self._logits(layout)
        if (joint := self.joints.get(region.output)) is not None:
            return self._joint(region.output, joint)
        return self.table.new(region.output, layout.blocks // layout.interleave * ROWS)

    def _gated(self, region: GatedRegion) -> None:
        self._linear(region.gate)
        self._linear(region.up)
        gate, up = (self.table.places[one.output] for one in (region.gate, region.up))
        self.table.add(SwiGlu(gate.stride), [gate.buffer, up.buffer], region.site, barrier=True)
        self.table.places[region.output] = gate
        self.table.finished.append(up)

    def _norm(self, site: str, norm: Norm, columns: int, source: Place, *, last: bool) -> Place:
        name = f"norm.{source.stride}"
        size = FLOAT * source.stride
        result = self.table.private(name, size) if last else self.table.scratch(name, size)
        kernel = RmsNorm(columns, source.stride, norm.epsilon, last)
        weight = self.stored.vector(norm.weight, source.stride)
        # No barrier: whoever normalises a row also quantises it.
        self.table.add(kernel, [source.buffer, weight, result], site, barrier=False)
        return Place(result, source.stride, "own" if last else "all")

    def _product(
        self, region: LinearRegion, layout: Layout, source: Place, target: Place, single: bool
    ) -> None:
        weight = self.stored.weight(region.weight, layout)
        epilogue = _epilogue(region)
        if isinstance(layout, FloatWeight):
            kernel = FloatLinear(layout, epilogue, source.stride, target.stride, source.rows, target.offset)
            self._wait_for_rows(source)
            self.table.add(kernel, [*weight, source.buffer, target.buffer], region.site, barrier=True)
            return
        if region.activation_group is None:
            self._dequantized_product(region.site, layout, epilogue, [*weight, source.buffer], source, target)
            return
        activation = self._quantize(region.site, layout.columns, region.activation_group, source, single)
        if single:
            vector = QuantizedMatrixVector(layout, region.activation_group, epilogue, target.offset)
            self.table.add(vector, [*weight, *activation, target.buffer], region.site, barrier=True)
            return
        matrix = QuantizedMatrixMatrix(
            layout, region.activation_group, epilogue, target.stride, target.offset
        )
        panel = self.table.private("panel", layout.columns * 2 * ROWS)
        self.table.add(matrix, [*weight, *activation, panel, target.buffer], region.site, barrier=True)

    def _dequantized_product(
        self,
        site: str,
        layout: QuantizedWeight,
        epilogue: str,
        inputs: list[int],
        source: Place,
        target: Place,
    ) -> None:
        if source.rows != "all":
            vector = DequantizedMatrixVector(layout, epilogue, source.stride, source.rows, target.offset)
            sums = self.table.private("sums", FLOAT * layout.columns // layout.group)
            self.table.add(vector, [*inputs, sums, target.buffer], site, barrier=True)
            return
        self._wait_for_rows(source)
        matrix = DequantizedMatrixMatrix(layout, epilogue, source.stride, target.stride, target.offset)
        panel = self.table.private("panel", FLOAT * layout.columns * 2 * ROWS)
        self.table.add(matrix, [*inputs, panel, target.buffer], site, barrier=True)

    def _wait_for_rows(self, source: Place) -> None:
        """A matrix product reads rows that other workers may have normalised."""
        if source.rows == "all":
            self.table.wait()

    def _quantize(self, site: str, columns: int, group: int, source: Place, single: bool) -> list[int]:
        name, groups = f"{columns}.{group}", columns // group
        place = self.table.private if single else self.table.scratch
        codes = place(f"codes.{name}", columns)
        scales = place(f"scales.{name}", FLOAT * groups)
        sums = place(f"sums.{name}", FLOAT * groups)
        kernel = QuantizeActivation(columns, group, source.stride, source.rows)
        self.table.add(kernel, [source.buffer, codes, scales, sums], site, barrier=not single)
        return [codes, scales, sums]

    def _joint(self, output: ir.Value, joint: Joint) -> Place:
        whole = self.table.places.get(joint.whole) or self.table.new(joint.whole, stride_of(joint.columns))
        self.table.places[output] = dataclasses.replace(whole, offset=joint.offset)
        return self.table.places[output]

    def _logits(self, layout: Layout) -> Place:
        stride = layout.blocks * ROWS
        rows = self.table.rows if self.table.name == "score" else 1
        buffer = self.table.pieces.buffer(Buffer("logits", "logits", FLOAT * rows * stride))
        return Place(buffer, stride, "all")

    def _attention(self, region: AttentionRegion) -> None:
        source, *_ = [self.table.read(one) for one in region.projections]
        capacity = -(-self.capacity // BLOCK) * BLOCK
        heads = Heads(region.heads, region.kv_heads, region.head_dim, capacity, source.stride)
        tables = [self.stored.rotary_table(one, heads) for one in (region.cosine, region.sine)]
        cache = [self.stored.cache(one, heads) for one in (region.key_cache, region.value_cache)]
        if self.table.single:
            self._decode(region, heads, source, [*tables, *cache])
            return
        rotate = RotateAndCache(heads)
        self.table.add(rotate, [source.buffer, *tables, *cache], region.site, barrier=True)
        place = self.table.new(region.output, stride_of(region.heads * region.head_dim))
        attend = PrefillAttention(heads, place.stride)
        self.table.add(attend, [source.buffer, *cache, place.buffer], region.site, barrier=True)

    def _decode(self, region: AttentionRegion, heads: Heads, source: Place, tables: list[int]) -> None:
        stride = stride_of(heads.heads * heads.head_dim)
        partial = self.table.private(f"partial.{stride}", FLOAT * heads.heads * heads.head_dim)
        statistics = self.table.private(f"statistics.{heads.heads}", FLOAT * heads.heads * 2)
        joined = self.table.private(f"joined.{stride}", FLOAT * stride)
        buffers = [source.buffer, *tables, partial, statistics]
        self.table.add(DecodeAttention(heads), buffers, region.site, barrier=True)
        self.table.add(
            CombineAttention(heads, stride), [partial, statistics, joined], region.site, barrier=False
        )
        self.table.places[region.output] = Place(joined, stride, "own")


def _epilogue(region: LinearRegion) -> str:
    if region.residual is not None:
        return "add"
    return "swiglu" if region.gated else "store"
