"""AVX2 and AVX-512 without VNNI: sums of pairs in 16 bits over up to 8 words of four columns.

A multiplication and an addition for each vector of bytes, where widening every product to 32 bits takes three
operations, two of them on the multipliers. With 4-bit codes no sum exceeds 2 · 8 · 15 · 128 = 30720.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.linear.layout import ROWS
from intaglio.kernels.linear.tiles.panel import PanelWriter, Sums
from intaglio.kernels.tir import Expression, KernelFrame

if TYPE_CHECKING:
    from intaglio.kernels.linear.matrix_matrix import QuantizedMatrixMatrix

MOST = 32767  # of a sum in 16 bits


class PairWriter(PanelWriter):
    """The panel kernel with sums of pairs."""

    def __init__(self, kernel: QuantizedMatrixMatrix, frame: KernelFrame, tokens: int) -> None:
        super().__init__(kernel, frame, tokens)
        words = self.width // 4
        fitting = MOST // (2 * 128 * kernel.weight.largest_code)
        self.words = max(size for size in range(1, fitting + 1) if words % size == 0)

    def products(self, token: Expression, blocks: int, group: Expression) -> Sums:
        """Σ u a over one activation group."""
        wide = tir.local((self.tokens, blocks, ROWS), "int32")
        self.clear(wide, blocks)
        with T.serial(self.width // 4 // self.words) as section:
            first = tir.bind(group * tir.int32(self.width // 4) + section * tir.int32(self.words))
            self.section(token, blocks, first, wide)
        return lambda row, part: tir.load(wide, [row, part, 0])

    def section(self, token: Expression, blocks: int, first: Expression, wide: Expression) -> None:
        """Some words of columns, which fit into 16 bits."""
        pairs = tir.local((self.tokens, blocks, ROWS), "int32")
        self.clear(pairs, blocks)
        step = 2 if self.words % 2 == 0 else 1
        # Unrolled whole, LLVM works off one sum after the other, and has to keep all codes on the stack.
        with T.serial(tir.opaque(self.words // step)) as outer:
            for inner in range(step):
                word = tir.bind(first + outer * tir.int32(step) + tir.int32(inner))
                self.word(token, blocks, word, pairs)
        for row in range(self.tokens):
            for part in range(blocks):
                at = [row, part, 0]
                tir.store(wide, at, tir.widen_pairs(tir.load(wide, at), tir.load(pairs, at)))

    def word(self, token: Expression, blocks: int, word: Expression, pairs: Expression) -> None:
        """Four columns."""
        codes = [
            tir.bind(tir.load(self.unpacked, [self.frame.worker, word, part, 0])) for part in range(blocks)
        ]
        for row in range(self.tokens):
            activation = tir.bind(self.activation.codes[token + tir.int32(row), word])
            for part in range(blocks):
                at = [row, part, 0]
                tir.store(pairs, at, tir.add_pairs(tir.load(pairs, at), codes[part], activation))

    def clear(self, sums: Expression, blocks: int) -> None:
        """Zeros."""
        for row in range(self.tokens):
            for part in range(blocks):
                tir.store(sums, [row, part, 0], tir.spread(tir.int32(0)))
