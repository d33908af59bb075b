"""Quantised weights × float32 activations, for layers whose activations must not be rounded.

With x unquantised a group contributes s (Σ u x − offset · Σx) + m · Σx, where u are the codes. The vector
kernel puts a code into the mantissa of a number between 1 and 2, which takes a shift and one logic operation
where a conversion takes four: Σ u x = 2^bits (Σ (1 + u / 2^bits) x − Σx). The Σx are computed once per call.
The matrix kernel turns a panel of 32 rows into float32 once, and multiplies it with all tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.linear import quantized
from intaglio.kernels.linear.epilogue import GATED, finish
from intaglio.kernels.linear.layout import ROWS, QuantizedWeight
from intaglio.kernels.linear.matrix_matrix import PADDING, tile_tokens
from intaglio.kernels.linear.matrix_vector import PREFETCH_BYTES
from intaglio.kernels.tir import Expression, KernelFrame, tirx


@dataclass(frozen=True)
class DequantizedMatrixVector:
    """`result[rows] = x Wᵀ` for one float32 token.

    `tokens` says where it is: "own", each worker has its copy in its row of activation; "shared", it is row
    0. Pointers: codes, scales (, minima), activation float32 `[workers, activation_stride]`, group_sums
    (scratch) float32 `[workers, columns / weight.group]`, result float32.
    """

    weight: QuantizedWeight
    epilogue: str  # one of `epilogue.PLAIN`, or of `epilogue.GATED` (gate and up interleaved)
    activation_stride: int
    tokens: str
    result_offset: int = 0  # of row 0 in result, a multiple of 16

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        token = {"activation": "float32", "group_sums": "float32"}
        return {**quantized.weight_pointers(self.weight), **token, "result": "float32"}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        del instructions  # shifts and multiply-adds are LLVM's business
        writer = _VectorWriter(self, frame)
        writer.sum_groups()
        frame.each_own(self.weight.blocks // self.weight.interleave, writer.unit)


class _VectorWriter:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, kernel: DequantizedMatrixVector, frame: KernelFrame) -> None:
        weight = kernel.weight
        self.kernel = kernel
        self.row = frame.worker if kernel.tokens == "own" else tir.int32(0)
        self.streams = quantized.weight_streams(frame, weight)
        self.activation = frame.buffer("activation", (frame.workers, kernel.activation_stride), "float32")
        groups = weight.columns // weight.group
        self.worker, self.sums = frame.worker, frame.buffer("group_sums", (frame.workers, groups), "float32")
        rows = kernel.result_offset + weight.blocks // weight.interleave * ROWS
        self.result = frame.buffer("result", (rows,), "float32")

    def sum_groups(self) -> None:
        """Σx of every group, for this worker."""
        weight = self.kernel.weight
        lanes = math.gcd(ROWS, weight.group)
        with T.serial(weight.columns // weight.group) as group:
            running = tir.local((lanes,))
            tir.store(running, [0], tir.zeros(lanes))
            with T.serial(weight.group // lanes) as vector:
                column = group * tir.int32(weight.group) + vector * tir.int32(lanes)
                part = tir.load(self.activation, [self.row, column], lanes)
                tir.store(running, [0], tir.load(running, [0], lanes) + part)
            tir.store(self.sums, [self.worker, group], tir.sum_lanes(tir.load(running, [0], lanes)))

    def unit(self, unit: Expression) -> None:
        """A block of rows, or a gate and an up block."""
        interleave = self.kernel.weight.interleave
        sums = [self.block(unit * tir.int32(interleave) + tir.int32(part)) for part in range(interleave)]
        at = [unit * tir.int32(ROWS) + tir.int32(self.kernel.result_offset)]
        finish(self.result, at, sums, self.kernel.epilogue)

    def block(self, block: Expression) -> Expression:
        """Sixteen rows times the activations."""
        block = tir.bind(block)
        total = tir.local((ROWS,))
        tir.store(total, [0], tir.zeros())
        with T.serial(self.kernel.weight.columns // self.kernel.weight.group) as group:
            self.group(block, group, total)
        return tir.bind(tir.load(total, [0]))

    def group(self, block: Expression, group: Expression, total: Expression) -> None:
        """Add one group of columns to `total`."""
        weight = self.kernel.weight
        lines = weight.group // weight.chunk
        # Two chains hide the latency of the multiply-add.
        partial = tir.local((2, ROWS))
        for chain in range(2):
            tir.store(partial, [chain, 0], tir.zeros())
        with T.serial(lines) as line:
            self.line(block, group * tir.int32(lines) + line, partial)
        tir.prefetch(self.streams.scales, [block, group, 16 * ROWS])
        plain = tir.bind(self.sums[self.worker, group])
        scale = quantized.group_vector(self.streams.scales, block, group)
        mantissas = tir.load(partial, [0, 0]) + tir.load(partial, [1, 0])
        unit = 1 << weight.bits
        ones = tir.spread(plain * tir.float32(-(unit + weight.offset)))
        products = tir.fused_multiply_add(mantissas, tir.spread(tir.float32(unit)), ones)
        running = tir.fused_multiply_add(products, scale, tir.load(total, [0]))
        if self.streams.minima is not None:
            minimum = quantized.group_vector(self.streams.minima, block, group)
            running = tir.fused_multiply_add(minimum, tir.spread(plain), running)
        tir.store(total, [0], running)

    def line(self, block: Expression, line: Expression, partial: Expression) -> None:
        """Add one 64-byte line of codes."""
        weight = self.kernel.weight
        packed = tir.bind(tir.load(self.streams.codes, [block, line, 0]))
        tir.prefetch(self.streams.codes, [block, line, PREFETCH_BYTES // 4])
        for word, codes in enumerate(quantized.unpack_line(weight, packed)):
            for byte in range(4):
                column = line * tir.int32(weight.chunk) + tir.int32(4 * word + byte)
                activation = tir.bind(self.activation[self.row, column])
                at = [byte % 2, 0]
                running = tir.fused_multiply_add(
                    in_mantissa(weight, codes, byte), tir.spread(activation), tir.load(partial, at)
                )
                tir.store(partial, at, running)


def in_mantissa(weight: QuantizedWeight, codes: Expression, byte: int) -> Expression:
    """1 + u / 2^bits, u being byte `byte` of each lane's four codes."""
    lowest = 23 - weight.bits  # of a float32's mantissa, the bits from here on
    shift = lowest - 8 * byte
    amount = tir.spread(tir.int32(abs(shift)))
    moved = codes << amount if shift > 0 else codes >> amount
    mask = tir.spread(tir.int32(((1 << weight.bits) - 1) << lowest))
    return tir.reinterpret((moved & mask) | tir.spread(tir.int32(0x3F800000)), "float32x16")


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
