"""AMX with bfloat16 weights: 8 float32 tokens, each in three bfloat16 parts, so that nothing is rounded.

A float32 has 8 + 8 + 8 bits: what bfloat16 keeps of a number, of the rest, and of what is left then. The
products of the three parts are summed in float32; parts and weights below 1e-38 count as zero, tokens must be
finite. Tiles come straight from the weight, of which a step (two columns of 16 rows) is a row of a tile.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.linear.epilogue import GATED, finish
from intaglio.kernels.linear.layout import ROWS
from intaglio.kernels.linear.tiles.amx import LINE, TOKENS, configure, load
from intaglio.kernels.linear.tiles.panel import PADDING
from intaglio.kernels.llvm.amx import TOKENS as TOKEN_TILE
from intaglio.kernels.llvm.amx import WEIGHTS as WEIGHT_TILES
from intaglio.kernels.tir import LANES, Expression, KernelFrame, tirx

if TYPE_CHECKING:
    from intaglio.kernels.linear.floating import FloatLinear

PARTS = 3  # of a float32
KEPT = -65536  # the bits that bfloat16 keeps


class AmxFloatWriter:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, kernel: FloatLinear, frame: KernelFrame) -> None:
        weight, rows = kernel.weight, frame.count + tir.int32(PADDING)
        self.kernel, self.frame = kernel, frame
        self.steps = weight.padded_columns // 2
        self.step = max(size for size in range(1, 17) if self.steps % size == 0)  # of a tile
        self.weight = frame.buffer("weight", (weight.blocks, self.steps, ROWS), "uint32")
        self.activation = frame.buffer("activation", (rows, kernel.activation_stride), "float32")
        self.result = frame.buffer("result", (rows, kernel.result_stride), "float32")

    def panel(self, block: Expression, blocks: int) -> None:
        """`blocks` blocks of rows from `block` on, times all tokens."""
        block = tir.bind(block)
        configure(TOKENS, 4 * self.step)
        tiles = tirx.floordiv(self.frame.count + tir.int32(TOKENS - 1), tir.int32(TOKENS))
        with T.serial(tiles) as tile:
            self.tile(tir.bind(tile * tir.int32(TOKENS)), block, blocks)
        tir.call("intaglio_tile_release")

    def tile(self, token: Expression, block: Expression, blocks: int) -> None:
        """A tile of tokens from `token` on."""
        for part in range(blocks):
            tir.call(f"intaglio_tile_zero_{part}")
        with T.serial(self.steps // self.step) as chunk:
            first = tir.bind(chunk * tir.int32(self.step))
            for part in range(blocks):
                load(WEIGHT_TILES[part], tir.address(self.weight, [block + tir.int32(part), first, 0]), LINE)
            for piece in self.split(token, first):
                load(TOKEN_TILE, tir.address(piece, [0, 0]), 4 * self.step)
                for part in range(blocks):
                    tir.call(f"intaglio_tile_multiply_floats_{part}")
        sums = [tir.local((TOKENS, ROWS)) for _ in range(blocks)]
        for part, place in enumerate(sums):
            stride = tir.constant(LINE, "int64")
            tir.call(f"intaglio_tile_store_{part}", tir.address(place, [0, 0]), stride)
        for row in range(TOKENS):
            self.write(token + tir.int32(row), block, [tir.bind(tir.load(one, [row, 0])) for one in sums])

    def split(self, token: Expression, first: Expression) -> list[Expression]:
        """The three parts of a tile's tokens, `[8, steps]` pairs each."""
        pieces = [tir.local((TOKENS, self.step), "int32") for _ in range(PARTS)]
        lanes = math.gcd(LANES, 2 * self.step)
        with T.serial(TOKENS) as row, T.serial(2 * self.step // lanes) as vector:
            at = vector * tir.int32(lanes)
            rest = tir.load(self.activation, [token + row, first * tir.int32(2) + at], lanes)
            for piece in pieces:
                rest = tir.hold(rest)
                bits = tir.hold(tir.reinterpret(rest, f"int32x{lanes}"))
                tir.store(piece, [row, vector * tir.int32(lanes // 2)], _pairs(bits, lanes))
                kept = bits & tir.spread(tir.int32(KEPT), lanes)
                rest = rest - tir.reinterpret(kept, f"float32x{lanes}")
        return pieces

    def write(self, token: Expression, block: Expression, sums: list[Expression]) -> None:
        """The epilogue for one token."""
        epilogue, offset = self.kernel.epilogue, tir.int32(self.kernel.result_offset)
        if epilogue in GATED:
            at = [token, tirx.floordiv(block, tir.int32(2)) * tir.int32(ROWS) + offset]
            finish(self.result, at, sums, epilogue)
            return
        for part, value in enumerate(sums):
            at = [token, (block + tir.int32(part)) * tir.int32(ROWS) + offset]
            finish(self.result, at, [value], epilogue)


def _pairs(bits: Expression, lanes: int) -> Expression:
    """What bfloat16 keeps of neighbours, side by side."""
    low, high = (tirx.Shuffle([bits], [tir.int32(lane) for lane in range(side, lanes, 2)]) for side in (0, 1))
    half = lanes // 2
    low = (low >> tir.spread(tir.int32(16), half)) & tir.spread(tir.int32(0xFFFF), half)
    return low | (high & tir.spread(tir.int32(KEPT), half))
