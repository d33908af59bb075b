"""Regions → stages of one table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from intaglio.backends.tvm.packing import Layout, layout_of, pack, section_bytes
from intaglio.backends.tvm.program import Buffer
from intaglio.backends.tvm.regions import (
    AttentionRegion,
    EmbeddingRegion,
    GatedRegion,
    LinearRegion,
    Norm,
    Region,
)
from intaglio.backends.tvm.tables import Place, TableBuilder
from intaglio.compiler.ir import DequantizedWeight
from intaglio.kernels.attention.cache import BLOCK, Heads, RotateAndCache
from intaglio.kernels.attention.decode import CombineAttention, DecodeAttention
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


@dataclass(frozen=True)
class Joint:
    """A separate projection's part of the joint buffer that attention reads."""

    whole: ir.Value  # stands for the buffer: the query projection
    offset: int  # floats
    columns: int  # of the whole


def joints_of(regions: Sequence[Region]) -> dict[ir.Value, Joint]:
    """The places of all projections that were not merged."""
    joints = {}
    for region in regions:
        if not isinstance(region, AttentionRegion) or len(region.projections) == 1:
            continue
        kv = region.kv_heads * region.head_dim
        offsets = (0, region.heads * region.head_dim, region.heads * region.head_dim + kv)
        for value, offset in zip(region.projections, offsets, strict=True):
            joints[value] = Joint(region.projections[0], offset, offsets[-1] + kv)
    return joints


@dataclass
class Emitter:
    """Appends regions to a table."""

    table: TableBuilder
    capacity: int
    logits: ir.Value
    joints: Mapping[ir.Value, Joint]  # where q, k and v go when they are projections of their own

    def emit(self, region: Region) -> list[str]:
        """Append `region`; the problems that keep it from having kernels."""
        if isinstance(region, EmbeddingRegion):
            problems = self._embedding(region)
        elif isinstance(region, LinearRegion):
            problems = self._linear(region)
        elif isinstance(region, GatedRegion):
            problems = self._gated(region)
        else:
            problems = self._attention(region)
        self.table.end_region()
        return problems

    def _embedding(self, region: EmbeddingRegion) -> list[str]:
        layout = layout_of(region.weight, 1)
        stride = stride_of(layout.columns)
        place = self.table.new(region.output, stride)
        tokens = self.table.pieces.buffer(Buffer("tokens", "tokens", FLOAT * self.table.tokens))
        buffers = [*self._weight(region.weight, layout), tokens, place.buffer]
        kernel = (
            QuantizedEmbedding(layout, stride)
            if isinstance(layout, QuantizedWeight)
            else FloatEmbedding(layout, stride)
        )
        self.table.add(kernel, buffers, region.site, barrier=True)
        return []

    def _linear(self, region: LinearRegion) -> list[str]:
        layout = layout_of(region.weight, 2 if region.gated else 1)
        if problem := _problem(region, layout):
            return [f"{region.site}: {problem}"]
        is_head = region.output is self.logits
        single = self.table.single or (is_head and self.table.name == "prefill")
        source = self.table.read(region.input)
        if region.norm is not None:
            source = self._norm(region.site, region.norm, layout.columns, source, last=single)
        epilogue = "swiglu" if region.gated else "store"
        if region.residual is not None:
            epilogue = "add"
            if (target := self.table.take_over(region.residual, region.output)) is None:
                return [f"{region.site}: its residual is read again afterwards"]
        elif is_head:
            target = self._logits(layout)
        elif (joint := self.joints.get(region.output)) is not None:
            if layout.rows % ROWS or joint.offset % ROWS:
                return [
                    f"{region.site}: separate projections need multiples of {ROWS} rows, not {layout.rows}"
                ]
            target = self._joint(region.output, joint)
        else:
            target = self.table.new(region.output, layout.blocks // layout.interleave * ROWS)
        self._product(region, layout, epilogue, source, target, single)
        return []

    def _gated(self, region: GatedRegion) -> list[str]:
        if problems := [*self._linear(region.gate), *self._linear(region.up)]:
            return problems
        gate, up = (self.table.places[one.output] for one in (region.gate, region.up))
        self.table.add(SwiGlu(gate.stride), [gate.buffer, up.buffer], region.site, barrier=True)
        self.table.places[region.output] = gate
        self.table.finished.append(up)
        return []

    def _norm(self, site: str, norm: Norm, columns: int, source: Place, *, last: bool) -> Place:
        name = f"norm.{source.stride}"
        size = FLOAT * source.stride
        result = self.table.private(name, size) if last else self.table.scratch(name, size)
        kernel = RmsNorm(columns, source.stride, norm.epsilon, last)
        weight = self._padded_vector(norm.weight, source.stride)
        # No barrier: whoever normalises a row also quantises it.
        self.table.add(kernel, [source.buffer, weight, result], site, barrier=False)
        return Place(result, source.stride, "own" if last else "all")

    def _product(
        self, region: LinearRegion, layout: Layout, epilogue: str, source: Place, target: Place, single: bool
    ) -> None:
        weight = self._weight(region.weight, layout)
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
            self.table.add(vector, [*inputs, target.buffer], site, barrier=True)
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

    def _attention(self, region: AttentionRegion) -> list[str]:
        source, *_ = [self.table.read(one) for one in region.projections]
        capacity = -(-self.capacity // BLOCK) * BLOCK
        heads = Heads(region.heads, region.kv_heads, region.head_dim, capacity, source.stride)
        tables = [self._rotary_table(one, heads) for one in (region.cosine, region.sine)]
        cache = [self._cache(one, heads) for one in (region.key_cache, region.value_cache)]
        if self.table.single:
            self._decode(region, heads, source, [*tables, *cache])
            return []
        rotate = RotateAndCache(heads)
        self.table.add(rotate, [source.buffer, *tables, *cache], region.site, barrier=True)
        place = self.table.new(region.output, stride_of(region.heads * region.head_dim))
        attend = PrefillAttention(heads, place.stride)
        self.table.add(attend, [source.buffer, *cache, place.buffer], region.site, barrier=True)
        return []

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

    def _weight(self, weight: DequantizedWeight, layout: Layout) -> list[int]:
        name = f"{weight.codes.name}.{layout.interleave}"
        sections = self.table.pieces.arena.place(name, section_bytes(layout), lambda: pack(weight, layout))
        return [
            self.table.pieces.buffer(Buffer(f"{name}.{section}", "weights", size, offset))
            for section, (offset, size) in sections.items()
        ]

    def _stored(self, name: str, size: int, values: ir.Value, shape: tuple[int, ...]) -> int:
        def make() -> dict[str, np.ndarray]:
            assert values.const_value is not None
            padded = np.zeros(shape, np.float32)
            array = values.const_value.numpy()[: shape[0]]
            padded[tuple(slice(0, extent) for extent in array.shape)] = array
            return {"values": padded}

        ((offset, _),) = self.table.pieces.arena.place(name, {"values": size}, make).values()
        return self.table.pieces.buffer(Buffer(name, "weights", size, offset))

    def _padded_vector(self, weight: ir.Value, stride: int) -> int:
        return self._stored(f"{weight.name}.{stride}", FLOAT * stride, weight, (stride,))

    def _rotary_table(self, table: ir.Value, heads: Heads) -> int:
        shape = (heads.capacity, heads.head_dim // 2)
        return self._stored(f"{table.name}", FLOAT * shape[0] * shape[1], table, shape)

    def _cache(self, cache: ir.Value, heads: Heads) -> int:
        size = FLOAT * heads.kv_heads * heads.capacity * heads.head_dim
        return self.table.pieces.buffer(Buffer(f"{cache.name}", "state", size))


def _problem(region: LinearRegion, layout: Layout) -> str | None:
    if isinstance(layout, FloatWeight):
        if region.activation_group is not None:
            return "activations are quantised before floating-point weights"
        return None
    if region.activation_group is None:
        return None
    group = region.activation_group
    if layout.columns % group or layout.group % group or group % 8:
        return (
            f"activation group {group} must be a multiple of 8 that divides the weight group {layout.group} "
            f"and the {layout.columns} columns"
        )
    return None
