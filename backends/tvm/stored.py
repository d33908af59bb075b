"""Buffers that outlive a call: packed weights, norms and rotary tables in the arena, and the KV cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.backends.tvm.packing import Layout, pack, section_bytes
from intaglio.backends.tvm.program import Buffer
from intaglio.backends.tvm.tables import Pieces
from intaglio.compiler.ir import DequantizedWeight
from intaglio.kernels.attention.heads import Heads

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
        """A norm's weight or a bias, padded by zeros to `stride` floats."""
        return self._padded(f"{weight.name}.{stride}", weight, (stride,))

    def rotary_table(self, table: ir.Value, heads: Heads) -> int:
        """Cosines or sines, padded by zeros to the cache's capacity."""
        return self._padded(f"{table.name}", table, (heads.capacity, heads.rotated // 2))

    def bias(self, parts: Sequence[ir.Value | None], heads: Heads) -> int:
        """The bias of the joint projection: of all of it, or of q, k and v, zeros where one has none."""
        names = ".".join(str(one.name) if one is not None else "none" for one in parts)
        kv = heads.kv_heads * heads.head_dim
        widths = (heads.stride,) if len(parts) == 1 else (heads.heads * heads.head_dim, kv, kv)

        def make() -> NDArray[np.float32]:
            pieces = [_floats(one, width) for one, width in zip(parts, widths, strict=True)]
            whole = np.concatenate(pieces)
            return np.pad(whole, (0, heads.stride - len(whole)))

        return self._section(f"{names}.{heads.stride}", FLOAT * heads.stride, make)

    def cache(self, keys: ir.Value, values: ir.Value, heads: Heads) -> dict[str, int]:
        """A layer's cache for all slots, by the names of the kernels' pointers."""
        names = {"keys": keys.name, "values": values.name}
        names |= {"key_scales": f"{keys.name}.scales", "value_scales": f"{values.name}.scales"}
        return {
            pointer: self.pieces.buffer(Buffer(f"{names[pointer]}", "state", self.pieces.slots * size))
            for pointer, size in heads.cache_bytes.items()
        }

    def _padded(self, name: str, values: ir.Value, shape: tuple[int, ...]) -> int:
        def make() -> NDArray[np.float32]:
            assert values.const_value is not None
            padded = np.zeros(shape, np.float32)
            array = values.const_value.numpy()
            array = array.reshape(array.shape[array.ndim - len(shape) :])[: shape[0]]
            padded[tuple(slice(0, extent) for extent in array.shape)] = array
            return padded

        return self._section(name, FLOAT * int(np.prod(shape)), make)

    def _section(self, name: str, size: int, make: Callable[[], NDArray[np.float32]]) -> int:
        place = self.pieces.arena.place
        ((offset, _),) = place(name, {"values": size}, lambda: [("values", make())]).values()
        return self.pieces.buffer(Buffer(name, "weights", size, offset))


def _floats(value: ir.Value | None, width: int) -> NDArray[np.float32]:
    """A stored vector padded by zeros to `width`; zeros where there is none."""
    padded = np.zeros(width, np.float32)
    if value is not None:
        assert value.const_value is not None
        array = value.const_value.numpy().reshape(-1)
        padded[: len(array)] = array
    return padded
