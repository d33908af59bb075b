"""Arm i8mm: an instruction multiplies 2 rows × 8 columns of codes by 8 columns × 2 tokens.

The panel holds 8 columns of a row side by side: `[columns / 8, blocks, 2 halves, 8 rows, 8 bytes]`. A vector
of sums has two tokens for each of 8 rows, so that two vectors are a block's sums of two tokens, taken apart
once a group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.linear import quantized
from intaglio.kernels.linear.layout import ROWS
from intaglio.kernels.linear.tiles.panel import PanelWriter, Sums
from intaglio.kernels.tir import Expression, KernelFrame, tirx

if TYPE_CHECKING:
    from intaglio.kernels.linear.matrix_matrix import QuantizedMatrixMatrix

TOKENS = 4  # with a block of rows, 16 of 32 registers hold sums
HALF = ROWS // 2


class UsmmlaWriter(PanelWriter):
    """The panel kernel with products of small matrices."""

    def __init__(self, kernel: QuantizedMatrixMatrix, frame: KernelFrame) -> None:
        super().__init__(kernel, frame, TOKENS)

    def unpack(self, block: Expression, blocks: int) -> None:
        """All codes of the panel, 8 columns of a row side by side."""
        lines = 8 // self.weight.chunk
        with T.serial(self.weight.columns // 8) as step:
            for part in range(blocks):
                codes: list[Expression] = []
                for line in range(lines):
                    at = [block + tir.int32(part), step * tir.int32(lines) + tir.int32(line), 0]
                    packed = tir.bind(tir.load(self.streams.codes, at))
                    codes += quantized.unpack_line(self.weight, packed)
                self.keep(step * tir.int32(2), part, [_zip(codes, half) for half in range(2)])

    def products(self, token: Expression, blocks: int, group: Expression) -> Sums:
        """Σ u a over one activation group."""
        parts = [self.block(token, part, group) for part in range(blocks)]

        def sums(row: int, part: int) -> Expression:
            halves = [tir.load(parts[part], [row // 2, half, 0]) for half in range(2)]
            return tirx.Shuffle(halves, [tir.int32(2 * lane + row % 2) for lane in range(ROWS)])

        return sums

    def block(self, token: Expression, part: int, group: Expression) -> Expression:
        """Sums of one block of rows, `[pair of tokens, half, 8 rows × 2 tokens]`."""
        sums = tir.local((TOKENS // 2, 2, ROWS), "int32")
        for pair in range(TOKENS // 2):
            for half in range(2):
                tir.store(sums, [pair, half, 0], tir.spread(tir.int32(0)))
        with T.serial(self.width // 8) as step:
            word = tir.bind(group * tir.int32(self.width // 4) + step * tir.int32(2))
            tokens = [self.pair(token + tir.int32(2 * pair), word) for pair in range(TOKENS // 2)]
            for half in range(2):
                at = [self.frame.worker, word + tir.int32(half), part, 0]
                rows = tir.bind(tir.load(self.unpacked, at))
                for pair, both in enumerate(tokens):
                    place = [pair, half, 0]
                    tir.store(sums, place, tir.multiply_matrices(tir.load(sums, place), rows, both))
        return sums

    def pair(self, token: Expression, word: Expression) -> Expression:
        """8 columns of two tokens, four times."""
        both = [
            tir.bind(tir.load(self.activation.codes, [token + tir.int32(row), word], 2)) for row in range(2)
        ]
        return tir.bind(tirx.Shuffle(both * 4, [tir.int32(lane) for lane in range(ROWS)]))


def _zip(codes: list[Expression], half: int) -> Expression:
    """Words of 4 columns of 16 rows, twice → 8 columns of 8 rows."""
    lanes = [side * ROWS + half * HALF + row for row in range(HALF) for side in range(2)]
    return tirx.Shuffle(codes, [tir.int32(lane) for lane in lanes])
