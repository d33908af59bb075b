"""Attention of many tokens: causal flash attention (Dao et al. 2022; loops as Dao 2023), no N × N buffer.

1. a tile, the queries of some tokens that share a key head, goes over blocks of 64 positions with an online
   softmax, none above the diagonal: keys and values of a block are read, and where need be brought into
   another form, once for the whole tile;
2. scores and outputs are register-tiled products: vectors of 16 positions (or components) times scalars;
3. tiles of one key head are dealt to the workers in turn, which balances the triangle.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.attention.heads import BLOCK, Heads
from intaglio.kernels.attention.prefill_tile import Tile
from intaglio.kernels.attention.scores import first_visible, out_of_sight
from intaglio.kernels.attention.tiling import scratch_floats, tiling_of
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import Expression, KernelFrame, tirx


@dataclass(frozen=True)
class PrefillAttention:
    """Attend for `count` tokens from `position` on: queries are rotated and scaled, keys and values cached.

    Pointers: projection float32 `[count, heads.stride]`, `Heads.storage_pointers`, scratch float32
    `[workers, scratch_floats(heads)]`, result float32 `[count, stride]`.
    """

    heads: Heads
    stride: int

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        memory = {"scratch": "float32", "result": "float32"}
        return {"projection": "float32", **self.heads.storage_pointers, **memory}

    @property
    def scratch_bytes(self) -> int:
        """Of a worker."""
        return 4 * scratch_floats(self.heads)

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        tokens = tiling_of(instructions).tokens(self.heads.repeat)
        tile = Tile(self.heads, self.stride, frame, instructions)
        tiles = tir.bind(tirx.floordiv(frame.count + tir.int32(tokens - 1), tir.int32(tokens)))

        def unit(index: Expression) -> None:
            kv_head = tir.bind(tirx.floordiv(index, tiles))
            start = tir.bind(tirx.floormod(index, tiles) * tir.int32(tokens))
            self.unit(tile, kv_head, start, tir.bind(tirx.Min(tir.int32(tokens), frame.count - start)))

        frame.each_dealt(tiles * tir.int32(self.heads.kv_heads), unit)

    def unit(self, tile: Tile, kv_head: Expression, start: Expression, tokens: Expression) -> None:
        """Tokens `start …` of the call, and the query heads of one key head."""
        unit = tir.int32(self.heads.unit)
        tile.begin(kv_head, start, tokens)
        position = tile.frame.position + start
        last = tir.bind(position + tokens - tir.int32(1))
        visible = tir.bind(first_visible(self.heads, position))
        block = tir.bind(tirx.floordiv(visible, tir.int32(BLOCK)))
        with T.serial(tirx.floordiv(last, tir.int32(BLOCK)) + tir.int32(1) - block) as step:
            first = tir.bind((block + step) * tir.int32(BLOCK))
            skipped = tirx.floordiv(out_of_sight(self.heads, visible, first), unit)
            end = tirx.Min(tir.int32(BLOCK), last + tir.int32(1) - first)
            rows = tirx.floordiv(end + unit - tir.int32(1), unit)
            tile.attend(first, tir.bind(skipped), tir.bind(rows))
        tile.write()
