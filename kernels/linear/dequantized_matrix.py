"""Quantised weights × many float32 tokens: a panel of 32 rows is turned into float32 once for all of them."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.linear import quantized
from intaglio.kernels.linear.epilogue import GATED, finish
from intaglio.kernels.linear.layout import ROWS, QuantizedWeight
from intaglio.kernels.linear.matrix_matrix import PADDING, tile_tokens
from intaglio.kernels.tir import Expression, KernelFrame, tirx


@dataclass(frozen=True)
class DequantizedMatrixMatrix:
    """`result[token, rows] = x Wᵀ` for `count` float32 tokens.

    Pointers: codes, scales (, minima), activation float32 `[tokens, activation_stride]`, panel (scratch,
    float32) `[workers, columns · 32]`, result float32 `[tokens, result_stride]`. Token buffers hold `PADDING`
    tokens more than `count`.
    """

    weight: QuantizedWeight
    epilogue: str  # one of `epilogue.PLAIN`, or of `epilogue.GATED` (gate and up interleaved)
    activation_stride: int
    result_stride: int
    result_offset: int = 0  # of row 0 in a token's results, a multiple of 16

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        weight = quantized.weight_pointers(self.weight)
        return {**weight, "activation": "float32", "panel": "float32", "result": "float32"}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        writer = _MatrixWriter(self, frame, tile_tokens(instructions))
        quantized.each_panel(frame, self.weight, writer.panel)


class _MatrixWriter:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, kernel: DequantizedMatrixMatrix, frame: KernelFrame, tile: int) -> None:
        weight = kernel.weight
        tokens = frame.count + tir.int32(PADDING)
        self.kernel, self.frame, self.tile = kernel, frame, tile
        self.streams = quantized.weight_streams(frame, weight)
        self.activation = frame.buffer("activation", (tokens, kernel.activation_stride), "float32")
        self.unpacked = frame.buffer("panel", (frame.workers, weight.columns, 2, ROWS), "float32")
        self.result = frame.buffer("result", (tokens, kernel.result_stride), "float32")

    def panel(self, block: Expression, blocks: int) -> None:
        """`blocks` blocks of rows from `block` on, times all tokens."""
        block = tir.bind(block)
        weight = self.kernel.weight
        with T.serial(weight.columns // weight.chunk) as line:
            for part in range(blocks):
                self.unpack(block + tir.int32(part), part, line)
        tiles = tirx.floordiv(self.frame.count + tir.int32(self.tile - 1), tir.int32(self.tile))
        with T.serial(tiles) as tile:
            self.multiply(tir.bind(tile * tir.int32(self.tile)), block, blocks)

    def unpack(self, block: Expression, part: int, line: Expression) -> None:
        """One line of codes to float32 weights."""
        weight = self.kernel.weight
        packed = tir.bind(tir.load(self.streams.codes, [block, line, 0]))
        group = tir.bind(tirx.floordiv(line * tir.int32(weight.chunk), tir.int32(weight.group)))
        scale = tir.bind(quantized.group_vector(self.streams.scales, block, group))
        minima = self.streams.minima
        minimum = tir.zeros() if minima is None else tir.bind(quantized.group_vector(minima, block, group))
        for word, codes in enumerate(quantized.unpack_line(weight, packed)):
            for byte in range(4):
                column = line * tir.int32(weight.chunk) + tir.int32(4 * word + byte)
                value = tir.fused_multiply_add(quantized.float_code(weight, codes, byte), scale, minimum)
                tir.store(self.unpacked, [self.frame.worker, column, part, 0], value)

    def multiply(self, token: Expression, block: Expression, blocks: int) -> None:
        """A tile of tokens from `token` on times the unpacked rows."""
        total = tir.local((self.tile, blocks, ROWS))
        for row in range(self.tile):
            for part in range(blocks):
                tir.store(total, [row, part, 0], tir.zeros())
        with T.serial(self.kernel.weight.columns) as column:
            weights = [
                tir.bind(tir.load(self.unpacked, [self.frame.worker, column, part, 0]))
                for part in range(blocks)
            ]
            for row in range(self.tile):
                activation = tir.spread(tir.bind(self.activation[token + tir.int32(row), column]))
                for part in range(blocks):
                    at = [row, part, 0]
                    running = tir.fused_multiply_add(weights[part], activation, tir.load(total, at))
                    tir.store(total, at, running)
        for row in range(self.tile):
            sums = [tir.bind(tir.load(total, [row, part, 0])) for part in range(blocks)]
            self.write(token + tir.int32(row), block, sums)

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
