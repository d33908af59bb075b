"""Quantised matrix × many vectors: prefill. The floor is the machine's peak of 8-bit dot products.

1. a panel of 32 rows of the weight is unpacked to bytes once and used for all tokens;
2. tiles of tokens × 32 rows are accumulated in registers: integers within a group, float32 across groups;
3. tokens beyond `count` in the last tile are computed from whatever the padded buffers hold, and never used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.linear import quantized
from intaglio.kernels.linear.epilogue import GATED, finish
from intaglio.kernels.linear.layout import ROWS, QuantizedWeight
from intaglio.kernels.linear.tiles import tile_writer
from intaglio.kernels.tir import Expression, KernelFrame, tirx

PADDING = 8  # tokens that buffers have room for beyond `count`: the last tile is computed whole


def tile_tokens(instructions: Instructions) -> int:
    """Tokens per tile: two int32 and two float32 vectors each, two more for the weights."""
    return 6 if instructions.wide else 2


@dataclass(frozen=True)
class QuantizedMatrixMatrix:
    """`result[token, rows] = x Wᵀ` for `count` quantised tokens.

    Pointers: codes, scales (, minima), activation int8 `[tokens, columns]`, activation_scales and
    activation_sums `[tokens, columns / activation_group]`, panel (scratch) `[workers, columns · 32]` bytes,
    result float32 `[tokens, result_stride]`. Token buffers hold `PADDING` tokens more than `count`.
    """

    weight: QuantizedWeight
    activation_group: int
    epilogue: str  # one of `epilogue.PLAIN`, or of `epilogue.GATED` (gate and up interleaved)
    result_stride: int
    result_offset: int = 0  # of row 0 in a token's results, a multiple of 16

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        return {
            **quantized.weight_pointers(self.weight),
            **quantized.ACTIVATION_POINTERS,
            "panel": "int32",
            "result": "float32",
        }

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        writer = tile_writer(self, instructions, frame) or MatrixWriter(self, instructions, frame)
        quantized.each_panel(frame, self.weight, writer.panel)


class MatrixKernel(Protocol):
    """What the writer asks of a product of many tokens."""

    @property
    def weight(self) -> QuantizedWeight:
        """The weight's layout."""

    @property
    def activation_group(self) -> int:
        """Columns that share a scale of the activations."""

    @property
    def epilogue(self) -> str:
        """What becomes of the sums."""

    @property
    def result_stride(self) -> int:
        """Floats from token to token."""

    @property
    def result_offset(self) -> int:
        """Of row 0 in a token's results."""


class MatrixWriter:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, kernel: MatrixKernel, instructions: Instructions, frame: KernelFrame) -> None:
        weight = kernel.weight
        self.kernel, self.instructions, self.frame = kernel, instructions, frame
        self.tokens = tile_tokens(instructions)
        self.streams = quantized.weight_streams(frame, weight)
        self.activation = quantized.activation_views(
            frame, weight.columns, kernel.activation_group, frame.count + tir.int32(PADDING)
        )
        self.unpacked = frame.buffer("panel", (frame.workers, weight.columns // 4, 2, ROWS), "int32")
        self.result = frame.buffer(
            "result", (frame.count + tir.int32(PADDING), kernel.result_stride), "float32"
        )

    def panel(self, block: Expression, blocks: int) -> None:
        """`blocks` blocks of rows from `block` on, times all tokens."""
        block = tir.bind(block)
        self.unpack(block, blocks)
        tiles = tirx.floordiv(self.frame.count + tir.int32(self.tokens - 1), tir.int32(self.tokens))
        with T.serial(tiles) as tile:
            self.tile(tir.bind(tile * tir.int32(self.tokens)), block, blocks)

    def unpack(self, block: Expression, blocks: int) -> None:
        """Codes to one byte each, in the order in which the tiles read them."""
        weight = self.kernel.weight
        words = weight.chunk // 4
        with T.serial(weight.columns // weight.chunk) as line:
            for part in range(blocks):
                packed = tir.bind(tir.load(self.streams.codes, [block + tir.int32(part), line, 0]))
                for word, codes in enumerate(quantized.unpack_line(weight, packed)):
                    at = [self.frame.worker, line * tir.int32(words) + tir.int32(word), part, 0]
                    tir.store(self.unpacked, at, codes)

    def tile(self, token: Expression, block: Expression, blocks: int) -> None:
        """A tile of tokens from `token` on times the unpacked rows."""
        total = tir.local((self.tokens, blocks, ROWS))
        for row in range(self.tokens):
            for part in range(blocks):
                tir.store(total, [row, part, 0], tir.zeros())
        with T.serial(self.kernel.weight.columns // self.kernel.activation_group) as group:
            self.group(token, block, blocks, group, total)
        for row in range(self.tokens):
            self.write(
                token + tir.int32(row), block, [tir.load(total, [row, part, 0]) for part in range(blocks)]
            )

    def group(
        self, token: Expression, block: Expression, blocks: int, group: Expression, total: Expression
    ) -> None:
        """Add one activation group's contribution to `total`."""
        weight, width = self.kernel.weight, self.kernel.activation_group
        sums = [tir.bind(self.activation.sums[token + tir.int32(row), group]) for row in range(self.tokens)]
        partial = tir.local((self.tokens, blocks, ROWS), "int32")
        for row in range(self.tokens):
            for part in range(blocks):
                tir.store(partial, [row, part, 0], quantized.start(weight, sums[row]))
        self.multiply(token, blocks, group * tir.int32(width // 4), partial)
        weight_group = tir.bind(tirx.floordiv(group * tir.int32(width), tir.int32(weight.group)))
        at = [block + tir.int32(part) for part in range(blocks)]
        scales = [tir.bind(quantized.group_vector(self.streams.scales, one, weight_group)) for one in at]
        minima = self.streams.minima
        lows = []
        if minima is not None:
            lows = [tir.bind(quantized.group_vector(minima, one, weight_group)) for one in at]
        for row in range(self.tokens):
            factor = tir.bind(self.activation.scales[token + tir.int32(row), group])
            low_factor = tir.bind(factor * sums[row].astype("float32"))
            for part in range(blocks):
                value = tir.load(partial, [row, part, 0]).astype("float32x16")
                running = tir.fused_multiply_add(
                    value, scales[part] * tir.spread(factor), tir.load(total, [row, part, 0])
                )
                if lows:
                    running = tir.fused_multiply_add(lows[part], tir.spread(low_factor), running)
                tir.store(total, [row, part, 0], running)

    def multiply(self, token: Expression, blocks: int, first_word: Expression, partial: Expression) -> None:
        """Integer products of one group of columns."""
        words = self.kernel.activation_group // 4
        step = next(size for size in (8, 4, 2, 1) if words % size == 0)
        with T.serial(words // step) as outer:
            for inner in range(step):
                self.multiply_word(
                    token, blocks, first_word + outer * tir.int32(step) + tir.int32(inner), partial
                )

    def multiply_word(self, token: Expression, blocks: int, word: Expression, partial: Expression) -> None:
        """Four columns."""
        worker = self.frame.worker
        codes = [tir.bind(tir.load(self.unpacked, [worker, word, part, 0])) for part in range(blocks)]
        for row in range(self.tokens):
            activation = tir.bind(self.activation.codes[token + tir.int32(row), word])
            for part in range(blocks):
                at = [row, part, 0]
                tir.store(
                    partial,
                    at,
                    tir.dot4(tir.load(partial, at), codes[part], activation, self.instructions),
                )

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
