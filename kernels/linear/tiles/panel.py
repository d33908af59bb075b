"""What the kernels in this folder share: panels of 32 rows, tiles of tokens, scales, and the epilogue.

A panel of rows is unpacked to bytes once and used for all tokens. Of a tile's products within one group of
columns, `products` forms the integers; they are scaled and summed in float32 here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.linear import quantized
from intaglio.kernels.linear.epilogue import GATED, finish
from intaglio.kernels.linear.layout import ROWS
from intaglio.kernels.tir import Expression, KernelFrame, tirx

if TYPE_CHECKING:
    from intaglio.kernels.linear.matrix_matrix import QuantizedMatrixMatrix

PADDING = 8  # tokens that buffers have room for beyond `count`: the last tile is computed whole
Sums = Callable[[int, int], Expression]  # (token of the tile, block of the panel) → int32x16


class PanelWriter:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, kernel: QuantizedMatrixMatrix, frame: KernelFrame, tokens: int) -> None:
        """`tokens` per tile, at most `PADDING`."""
        weight = kernel.weight
        self.kernel, self.weight, self.frame, self.tokens = kernel, weight, frame, tokens
        self.width = kernel.activation_group
        self.streams = quantized.weight_streams(frame, weight)
        rows = frame.count + tir.int32(PADDING)
        self.activation = quantized.activation_views(frame, weight.columns, self.width, rows)
        self.unpacked = frame.buffer("panel", (frame.workers, weight.columns // 4, 2, ROWS), "int32")
        self.result = frame.buffer("result", (rows, kernel.result_stride), "float32")

    def products(self, token: Expression, blocks: int, group: Expression) -> Sums:
        """Σ u a over one activation group, for the tile from `token` on and the panel's blocks."""
        raise NotImplementedError

    def keep(self, word: Expression, part: int, codes: list[Expression]) -> None:
        """Put a line's codes of block `part` into the panel, from `word` (of four columns) on."""
        for index, vector in enumerate(codes):
            tir.store(self.unpacked, [self.frame.worker, word + tir.int32(index), part, 0], vector)

    def panel(self, block: Expression, blocks: int) -> None:
        """`blocks` blocks of rows from `block` on, times all tokens."""
        block = tir.bind(block)
        self.unpack(block, blocks)
        tiles = tirx.floordiv(self.frame.count + tir.int32(self.tokens - 1), tir.int32(self.tokens))
        with T.serial(tiles) as tile:
            self.tile(tir.bind(tile * tir.int32(self.tokens)), block, blocks)

    def unpack(self, block: Expression, blocks: int) -> None:
        """All codes of the panel, one byte each."""
        words = self.weight.chunk // 4
        with T.serial(self.weight.columns // self.weight.chunk) as line:
            for part in range(blocks):
                packed = tir.bind(tir.load(self.streams.codes, [block + tir.int32(part), line, 0]))
                codes = quantized.unpack_line(self.weight, packed)
                self.keep(line * tir.int32(words), part, codes)

    def tile(self, token: Expression, block: Expression, blocks: int) -> None:
        """A tile of tokens from `token` on times the unpacked rows."""
        # A buffer for each token: together they might be too large for the stack.
        totals = [tir.local((blocks, ROWS)) for _ in range(self.tokens)]
        for total in totals:
            for part in range(blocks):
                tir.store(total, [part, 0], tir.zeros())
        with T.serial(self.weight.columns // self.width) as group:
            group = tir.bind(group)
            sums = self.products(token, blocks, group)
            self.scale(token, block, group, sums, totals, blocks)
        for row, total in enumerate(totals):
            self.write(token + tir.int32(row), block, [tir.load(total, [part, 0]) for part in range(blocks)])

    def scale(
        self,
        token: Expression,
        block: Expression,
        group: Expression,
        sums: Sums,
        totals: list[Expression],
        blocks: int,
    ) -> None:
        """Add one group's integers to `totals`."""
        weight = self.weight
        at = tir.bind(tirx.floordiv(group * tir.int32(self.width), tir.int32(weight.group)))
        scales, lows = self.vectors(self.streams.scales, block, at, blocks), []
        if self.streams.minima is not None:
            lows = self.vectors(self.streams.minima, block, at, blocks)
        for row, total in enumerate(totals):
            factor = tir.bind(self.activation.scales[token + tir.int32(row), group])
            plain = tir.bind(self.activation.sums[token + tir.int32(row), group])
            low_factor = tir.bind(factor * plain.astype("float32"))
            for part in range(blocks):
                integers = sums(row, part)
                if weight.offset:
                    integers = integers + quantized.start(weight, plain)
                running = tir.load(total, [part, 0])
                value = integers.astype("float32x16")
                running = tir.fused_multiply_add(value, scales[part] * tir.spread(factor), running)
                if lows:
                    running = tir.fused_multiply_add(lows[part], tir.spread(low_factor), running)
                tir.store(total, [part, 0], running)

    def vectors(
        self, values: Expression, block: Expression, group: Expression, blocks: int
    ) -> list[Expression]:
        """Scales or minima of the panel's rows in one group."""
        each = (block + tir.int32(part) for part in range(blocks))
        return [tir.bind(quantized.group_vector(values, one, group)) for one in each]

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
