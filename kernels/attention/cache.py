"""The static KV cache's layout, and the step that writes to it.

Keys are `[kv_heads, capacity / 16, head_dim, 16]`: a vector holds one component of 16 positions, so that the
scores of 16 positions are sums of vectors times scalars and need no horizontal additions. Values are
`[kv_heads, capacity, head_dim]`. Both are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import LANES, Expression, KernelFrame, tirx

BLOCK = 64  # positions: capacities are multiples of it, so that kernels may read whole blocks


@dataclass(frozen=True)
class Heads:
    """The sizes of an attention layer and of its cache."""

    heads: int
    kv_heads: int
    head_dim: int
    capacity: int  # positions, a multiple of BLOCK
    stride: int  # floats between the rows of the joint q, k, v projection

    @property
    def repeat(self) -> int:
        """Query heads per key head."""
        return self.heads // self.kv_heads

    @property
    def lanes(self) -> int:
        """Vector width for a head's components."""
        return math.gcd(LANES, self.head_dim)

    @property
    def half_lanes(self) -> int:
        """Vector width for half a head's components, as rotation needs them."""
        return math.gcd(LANES, self.head_dim // 2)

    @property
    def key_offset(self) -> int:
        """First key in a row of the projection."""
        return self.heads * self.head_dim

    @property
    def value_offset(self) -> int:
        """First value in a row of the projection."""
        return (self.heads + self.kv_heads) * self.head_dim


CACHE_POINTERS = {"cosines": "float32", "sines": "float32", "keys": "float32", "values": "float32"}


class CacheViews:
    """Views of the projection, the rotary tables and the cache."""

    def __init__(self, heads: Heads, frame: KernelFrame) -> None:
        self.heads = heads
        blocks = heads.capacity // LANES
        self.projection = frame.buffer("projection", (frame.count + tir.int32(8), heads.stride), "float32")
        self.cosines = frame.buffer("cosines", (heads.capacity, heads.head_dim // 2), "float32")
        self.sines = frame.buffer("sines", (heads.capacity, heads.head_dim // 2), "float32")
        self.keys = frame.buffer("keys", (heads.kv_heads, blocks, heads.head_dim, LANES), "float32")
        self.values = frame.buffer("values", (heads.kv_heads, heads.capacity, heads.head_dim), "float32")

    def rotate(
        self,
        row: Expression,
        offset: Expression,
        position: Expression,
        sink: Callable[[Expression, Expression], None],
    ) -> None:
        """Rotate the head at `offset` of projection row `row` into `sink(component, vector)`."""
        half = self.heads.head_dim // 2
        lanes = self.heads.half_lanes
        for first in range(0, half, lanes):
            cosine = tir.bind(tir.load(self.cosines, [position, first], lanes))
            sine = tir.bind(tir.load(self.sines, [position, first], lanes))
            low = tir.bind(tir.load(self.projection, [row, offset + tir.int32(first)], lanes))
            high = tir.bind(tir.load(self.projection, [row, offset + tir.int32(half + first)], lanes))
            sink(tir.int32(first), low * cosine - high * sine)
            sink(tir.int32(half + first), high * cosine + low * sine)

    def append(self, row: Expression, kv_head: Expression, position: Expression) -> None:
        """Rotate a key of projection row `row` into the cache, and copy its value."""
        size = self.heads.head_dim
        rotated = tir.local((size,))
        key = tir.bind(tir.int32(self.heads.key_offset) + kv_head * tir.int32(size))
        self.rotate(row, key, position, lambda at, vector: tir.store(rotated, [at], vector))
        block, lane = tirx.floordiv(position, LANES), tirx.floormod(position, LANES)
        with T.serial(size) as component:
            tir.store(self.keys, [kv_head, block, component, lane], rotated[component])
        value = tir.bind(tir.int32(self.heads.value_offset) + kv_head * tir.int32(size))
        for first in range(0, size, self.heads.lanes):
            vector = tir.load(self.projection, [row, value + tir.int32(first)], self.heads.lanes)
            tir.store(self.values, [kv_head, position, first], vector)


@dataclass(frozen=True)
class RotateAndCache:
    """Rotate and scale (1/√head_dim) the queries of `count` tokens in place; cache their keys and values.

    For prefill. Pointers: projection float32 `[count, stride]`, cosines and sines
    `[capacity, head_dim / 2]`, keys, values.
    """

    heads: Heads

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        return {"projection": "float32", **CACHE_POINTERS}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        del instructions  # bound by memory
        views = CacheViews(self.heads, frame)
        frame.each_own(frame.count, lambda row: self.row(views, frame.position, row))

    def row(self, views: CacheViews, first_position: Expression, row: Expression) -> None:
        """One token."""
        position = tir.bind(first_position + row)
        with T.serial(self.heads.kv_heads) as kv_head:
            views.append(row, kv_head, position)
        scale = tir.float32(self.heads.head_dim**-0.5)
        with T.serial(self.heads.heads) as head:
            offset = tir.bind(head * tir.int32(self.heads.head_dim))
            scaled: list[tuple[Expression, Expression]] = []
            views.rotate(row, offset, position, lambda at, vector: scaled.append((at, tir.bind(vector))))
            for at, vector in scaled:
                tir.store(
                    views.projection, [row, offset + at], vector * tir.spread(scale, self.heads.half_lanes)
                )
