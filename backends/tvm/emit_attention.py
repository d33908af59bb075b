"""Attention → stages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from intaglio.backends.tvm.emit_rows import RowEmitter, stride_of
from intaglio.backends.tvm.regions import AttentionRegion
from intaglio.backends.tvm.stored import StoredBuffers
from intaglio.backends.tvm.tables import FLOAT, Place, TableBuilder
from intaglio.kernels.attention.batch import BatchAttention
from intaglio.kernels.attention.cache import RotateAndCache
from intaglio.kernels.attention.combine import CombineAttention
from intaglio.kernels.attention.decode import DecodeAttention
from intaglio.kernels.attention.heads import BLOCK, Heads
from intaglio.kernels.attention.prefill import PrefillAttention


@dataclass(frozen=True)
class AttentionEmitter:
    """Appends attention to a table."""

    table: TableBuilder
    capacity: int
    rows: RowEmitter

    def emit(self, region: AttentionRegion) -> None:
        """Append `region`."""
        source = self._source(region)
        heads = self._heads(region, source)
        buffers = {"projection": source.buffer, **self._stored_buffers(region, heads)}
        if self.table.single:
            self._decode(region, heads, buffers)
            return
        if self.table.batched:
            self._batch(region, heads, buffers)
            return
        self._add(RotateAndCache(heads), buffers, region.site, barrier=True)
        place = self.table.new(region.output, stride_of(region.heads * region.head_dim))
        buffers["result"] = place.buffer
        kernel = PrefillAttention(heads, place.stride)
        size = kernel.scratch_bytes
        buffers["scratch"] = self.table.private(f"attention.{size}", size)
        self._add(kernel, buffers, region.site, barrier=True)

    def _source(self, region: AttentionRegion) -> Place:
        """Where queries, keys and values lie side by side."""
        read = [(one, self.table.read(one.value)) for one in region.projections]
        places = [replace(place, offset=place.offset + one.offset) for one, place in read]
        if len(places) == 1:
            return places[0]
        sizes = (region.heads * region.head_dim, *[region.kv_heads * region.head_dim] * 2)
        offsets = (0, sizes[0], sizes[0] + sizes[1])
        if places == [replace(places[0], offset=one) for one in offsets]:
            return places[0]
        # No value of the graph: only this attention reads the copy.
        joint = self.table.new(ir.Value(name=f"{region.site}.projection"), stride_of(sum(sizes)))
        for place, columns, offset in zip(places, sizes, offsets, strict=True):
            self.rows.copy(region.site, place, columns, replace(joint, offset=offset), joint.rows)
        return joint

    def _heads(self, region: AttentionRegion, source: Place) -> Heads:
        size, rotation = region.head_dim, region.rotation
        turned = 0 if rotation is None else rotation.components
        return Heads(
            heads=region.heads,
            kv_heads=region.kv_heads,
            head_dim=size,
            capacity=-(-self.capacity // BLOCK) * BLOCK,
            stride=source.stride,
            scale=None if math.isclose(region.scale, size**-0.5, rel_tol=1e-6) else region.scale,
            softcap=region.softcap,
            window=region.window,
            rotary_dim=None if turned == size else turned,
            interleaved=rotation is not None and rotation.interleaved,
            bias=bool(region.bias),
            query_norm=None if region.query_norm is None else region.query_norm.epsilon,
            key_norm=None if region.key_norm is None else region.key_norm.epsilon,
            own=source.rows == "own",
            cache=region.cache,
        )

    def _stored_buffers(self, region: AttentionRegion, heads: Heads) -> dict[str, int]:
        """Buffers that outlive a call, by the names of the kernels' pointers."""
        stored = StoredBuffers(self.table.pieces)
        found = stored.cache(region.key_cache, region.value_cache, heads)
        if region.rotation is not None:
            tables = {"cosines": region.rotation.cosine, "sines": region.rotation.sine}
            found |= {name: stored.rotary_table(one, heads) for name, one in tables.items()}
        if region.bias:
            found["bias"] = stored.bias(region.bias, heads)
        for name, norm in (("query_norm", region.query_norm), ("key_norm", region.key_norm)):
            if norm is not None:
                found[name] = stored.vector(norm.weight, heads.head_dim)
        return found

    def _decode(self, region: AttentionRegion, heads: Heads, buffers: dict[str, int]) -> None:
        width = heads.heads * heads.head_dim
        stride = stride_of(width)
        buffers["partial"] = self.table.private(f"partial.{stride}", FLOAT * width)
        buffers["statistics"] = self.table.private(f"statistics.{heads.heads}", FLOAT * heads.heads * 2)
        self._add(DecodeAttention(heads), buffers, region.site, barrier=True)
        buffers["result"] = self.table.private(f"joined.{stride}", FLOAT * stride)
        self._add(CombineAttention(heads, stride), buffers, region.site, barrier=False)
        self.table.places[region.output] = Place(buffers["result"], stride, "own")

    def _batch(self, region: AttentionRegion, heads: Heads, buffers: dict[str, int]) -> None:
        buffers |= {name: self.table.given(name) for name in ("positions", "slots")}
        place = self.table.new(region.output, stride_of(heads.heads * heads.head_dim))
        buffers["result"] = place.buffer
        self.table.wait()
        self._add(BatchAttention(heads, place.stride), buffers, region.site, barrier=True)

    def _add(self, kernel: Any, buffers: Mapping[str, int], site: str, *, barrier: bool) -> None:
        self.table.add(kernel, [buffers[name] for name in kernel.pointers], site, barrier=barrier)
