"""Buffers that outlive a call: packed weights, norms and rotary tables in the arena, and the KV cache."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from intaglio.backends.tvm.arena import Sections
from intaglio.backends.tvm.packing import Layout, pack, section_bytes
from intaglio.backends.tvm.program import Buffer
from intaglio.backends.tvm.tables import Pieces
from intaglio.compiler.ir import DequantizedWeight
from intaglio.kernels.attention.cache import Heads

FLOAT = 4  # bytes


@dataclass(frozen=True)
class StoredBuffers:
    """Indices of such buffers in `pieces`; what is stored twice has one place."""

    pieces: Pieces

    def weight(self, weight: DequantizedWeight, layout: Layout) -> list[int]:
        """The packed sections of `weight`, in the order of the kernels' pointers."""
        name = f"{weight.codes.name}.{layout.interleave}"
        sections = self.pieces.arena.place(name, section_bytes(layout), lambda: pack(weight, layout))
        return [
            self.pieces.buffer(Buffer(f"{name}.{section}", "weights", size, offset))
            for section, (offset, size) in sections.items()
        ]

    def vector(self, weight: ir.Value, stride: int) -> int:
        """A norm's weight, padded by zeros to `stride` floats."""
        return self._padded(f"{weight.name}.{stride}", weight, (stride,))

    def rotary_table(self, table: ir.Value, heads: Heads) -> int:
        """Cosines or sines, padded by zeros to the cache's capacity."""
        return self._padded(f"{table.name}", table, (heads.capacity, heads.head_dim // 2))

    def cache(self, cache: ir.Value, heads: Heads) -> int:
        """Keys or values of a layer."""
        size = FLOAT * heads.kv_heads * heads.capacity * heads.head_dim
        return self.pieces.buffer(Buffer(f"{cache.name}", "state", size))

    def _padded(self, name: str, values: ir.Value, shape: tuple[int, ...]) -> int:
        def make() -> Sections:
            assert values.const_value is not None
            padded = np.zeros(shape, np.float32)
            array = values.const_value.numpy()[: shape[0]]
            padded[tuple(slice(0, extent) for extent in array.shape)] = array
            return {"values": padded}

        sizes = {"values": FLOAT * int(np.prod(shape))}
        ((offset, size),) = self.pieces.arena.place(name, sizes, make).values()
        return self.pieces.buffer(Buffer(name, "weights", size, offset))
