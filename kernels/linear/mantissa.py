"""Quantised weights × one float32 token without byte products: codes in the mantissas of floats.

A code becomes the mantissa of a number between 1 and 2, which takes a shift and one logic operation where a
conversion takes four: Σ u x = 2^bits (Σ (1 + u / 2^bits) x − Σx). The Σx are computed once per call.
"""

from __future__ import annotations

import math

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.linear import quantized
from intaglio.kernels.linear.epilogue import finish
from intaglio.kernels.linear.fixed_point import VectorKernel
from intaglio.kernels.linear.layout import ROWS, QuantizedWeight
from intaglio.kernels.linear.matrix_vector import PREFETCH_BYTES
from intaglio.kernels.tir import Expression, KernelFrame


class MantissaWriter:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, kernel: VectorKernel, frame: KernelFrame) -> None:
        weight = kernel.weight
        self.kernel = kernel
        self.row = frame.worker if kernel.tokens == "own" else tir.int32(0)
        self.streams = quantized.weight_streams(frame, weight)
        self.activation = frame.buffer("activation", (frame.workers, kernel.activation_stride), "float32")
        groups = weight.columns // weight.group
        self.worker, self.sums = (
            frame.worker,
            frame.buffer("plane_scales", (frame.workers, groups), "float32"),
        )
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
