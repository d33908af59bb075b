"""AMX: 8 tokens × 64 columns times 64 columns × 16 rows, in tile registers.

A word of a panel, four columns of 16 rows, is just a row of a weight tile. Tiles have 8 tokens, the room that
buffers have beyond `count`. The time of a product goes with its tokens, and with groups of 32 columns scaling
sums takes longer anyway. Linux must have given the process the right to use tiles (runtime.c asks for it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.linear.layout import ROWS
from intaglio.kernels.linear.tiles.panel import PanelWriter, Sums
from intaglio.kernels.llvm.amx import TOKENS as TOKEN_TILE
from intaglio.kernels.llvm.amx import WEIGHTS as WEIGHT_TILES
from intaglio.kernels.tir import Expression, KernelFrame

if TYPE_CHECKING:
    from intaglio.kernels.linear.matrix_matrix import QuantizedMatrixMatrix

TOKENS = 8
LINE = 64  # bytes of a tile's row of sums or weights


class AmxWriter(PanelWriter):
    """The panel kernel on tiles."""

    def __init__(self, kernel: QuantizedMatrixMatrix, frame: KernelFrame) -> None:
        super().__init__(kernel, frame, TOKENS)
        # Columns of a tile.
        self.step = max(size for size in range(4, LINE + 1, 4) if self.width % size == 0)

    def panel(self, block: Expression, blocks: int) -> None:
        """`blocks` blocks of rows from `block` on, times all tokens."""
        configure(TOKENS, self.step)
        super().panel(block, blocks)
        tir.call("intaglio_tile_release")

    def products(self, token: Expression, blocks: int, group: Expression) -> Sums:
        """Σ u a over one activation group."""
        for part in range(blocks):
            tir.call(f"intaglio_tile_zero_{part}")
        with T.serial(self.width // self.step) as step:
            word = tir.bind(group * tir.int32(self.width // 4) + step * tir.int32(self.step // 4))
            columns = tir.address(self.activation.codes, [token, word])
            load(TOKEN_TILE, columns, self.weight.columns)
            for part in range(blocks):
                rows = tir.address(self.unpacked, [self.frame.worker, word, part, 0])
                load(WEIGHT_TILES[part], rows, 2 * LINE)
                tir.call(f"intaglio_tile_multiply_{part}")
        sums = [tir.local((TOKENS, ROWS), "int32") for _ in range(blocks)]
        for part, place in enumerate(sums):
            stride = tir.constant(LINE, "int64")
            tir.call(f"intaglio_tile_store_{part}", tir.address(place, [0, 0]), stride)
        return lambda row, part: tir.load(sums[part], [row, 0])


def load(tile: int, address: Expression, stride: int) -> None:
    """Fill `tile` from `address` on, its rows `stride` bytes apart."""
    tir.call(f"intaglio_tile_load_{tile}", address, tir.constant(stride, "int64"))


def configure(tokens: int, columns: int) -> None:
    """Shapes of the tiles: `tokens` × `columns` bytes, times `columns` × 16 rows."""
    widths = [LINE, LINE, LINE, LINE, columns]  # bytes of a row: two of sums, two of weights, tokens
    heights = [tokens, tokens, columns // 4, columns // 4, tokens]
    palette = [1, *[0] * 15]
    table = bytes(palette)
    table += b"".join(width.to_bytes(2, "little") for width in widths).ljust(32, b"\0")
    table += bytes(heights).ljust(16, b"\0")
    place = tir.local((len(table) // 4,), "int32")
    for index in range(len(table) // 4):
        word = int.from_bytes(table[4 * index : 4 * index + 4], "little")
        tir.store(place, [index], tir.int32(word))
    tir.call("intaglio_tile_configure", tir.address(place, [0]))
