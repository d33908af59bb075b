"""Quantised weights × one float32 token by products of bytes: the token in two planes of bytes.

q = round(x · 32512 / max|x|) = 256 · high + low, both signed bytes, so that with scale s = max|x| / 32512

    Σ u x  ≈  s · (256 · Σ u high + Σ u low)

and the offset and minimum of the weight take Σ q. Two products of 64 bytes per line of codes take the
place of the 64 or 128 multiply-adds of floats.
"""

from __future__ import annotations

import math
from typing import Protocol

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.linear import quantized
from intaglio.kernels.linear.epilogue import finish
from intaglio.kernels.linear.layout import ROWS, QuantizedWeight
from intaglio.kernels.linear.matrix_vector import PREFETCH_BYTES
from intaglio.kernels.tir import LANES, Expression, KernelFrame, tirx

LARGEST = 32512.0  # 127 · 256: the high byte of no code exceeds 127
HIGH, LOW = 0, 1


class VectorKernel(Protocol):
    """What the writers ask of `DequantizedMatrixVector`."""

    @property
    def weight(self) -> QuantizedWeight:
        """The weight's layout."""

    @property
    def width(self) -> int:
        """Columns that share a scale of the activations."""

    @property
    def epilogue(self) -> str:
        """What becomes of the sums."""

    @property
    def activation_stride(self) -> int:
        """Floats from token to token."""

    @property
    def tokens(self) -> str:
        """Whose token it is: "own" or "shared"."""

    @property
    def result_offset(self) -> int:
        """Of row 0 in the result."""


class FixedPointWriter:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, kernel: VectorKernel, frame: KernelFrame, instructions: Instructions) -> None:
        weight = kernel.weight
        self.kernel, self.instructions, self.worker = kernel, instructions, frame.worker
        self.row = frame.worker if kernel.tokens == "own" else tir.int32(0)
        self.streams = quantized.weight_streams(frame, weight)
        groups, columns = weight.columns // kernel.width, weight.columns
        self.activation = frame.buffer("activation", (frame.workers, kernel.activation_stride), "float32")
        self.bytes = frame.buffer("planes", (frame.workers, 2, columns), "int8")
        self.words = frame.buffer("planes", (frame.workers, 2, columns // 4), "int32")
        self.scales = frame.buffer("plane_scales", (frame.workers, groups), "float32")
        self.sums = frame.buffer("plane_sums", (frame.workers, groups), "int32")
        rows = kernel.result_offset + weight.blocks // weight.interleave * ROWS
        self.result = frame.buffer("result", (rows,), "float32")

    def quantize(self) -> None:
        """This worker's copy of the token."""
        with T.serial(self.kernel.weight.columns // self.kernel.width) as group:
            self._quantize_group(group, math.gcd(LANES, self.kernel.width))

    def _quantize_group(self, group: Expression, lanes: int) -> None:
        width = self.kernel.width
        starts = [group * tir.int32(width) + tir.int32(start) for start in range(0, width, lanes)]
        peak, total = tir.local((lanes,)), tir.local((lanes,), "int32")
        tir.store(peak, [0], tir.zeros(lanes))
        tir.store(total, [0], tir.spread(tir.int32(0), lanes))
        for at in starts:
            size = tir.absolute(tir.load(self.activation, [self.row, at], lanes), lanes)
            tir.store(peak, [0], tirx.Max(tir.load(peak, [0], lanes), size))
        largest = tir.hold(tir.max_lanes(tir.load(peak, [0], lanes)) if lanes > 1 else peak[0])
        inverse = tirx.Select(largest > tir.float32(0.0), tir.float32(LARGEST) / largest, tir.float32(0.0))
        inverse = tir.hold(inverse)
        for at in starts:
            self._quantize_vector(at, inverse, total, lanes)
        tir.store(self.scales, [self.worker, group], largest * tir.float32(1.0 / LARGEST))
        tir.store(self.sums, [self.worker, group], tir.sum_integer_lanes(tir.load(total, [0], lanes)))

    def _quantize_vector(self, at: Expression, inverse: Expression, total: Expression, lanes: int) -> None:
        scaled = tir.load(self.activation, [self.row, at], lanes) * tir.spread(inverse, lanes)
        code = tir.hold(tir.round_even(scaled, lanes).astype(f"int32x{lanes}"))
        high = tir.hold((code + tir.spread(tir.int32(128), lanes)) >> tir.spread(tir.int32(8), lanes))
        low = code - (high << tir.spread(tir.int32(8), lanes))
        tir.store(self.bytes, [self.worker, HIGH, at], high.astype(f"int8x{lanes}"))
        tir.store(self.bytes, [self.worker, LOW, at], low.astype(f"int8x{lanes}"))
        tir.store(total, [0], tir.load(total, [0], lanes) + code)

    def unit(self, unit: Expression) -> None:
        """A block of rows, or a gate and an up block."""
        interleave = self.kernel.weight.interleave
        sums = [self._block(unit * tir.int32(interleave) + tir.int32(part)) for part in range(interleave)]
        at = [unit * tir.int32(ROWS) + tir.int32(self.kernel.result_offset)]
        finish(self.result, at, sums, self.kernel.epilogue)

    def _block(self, block: Expression) -> Expression:
        """Sixteen rows times the token."""
        block = tir.bind(block)
        total = tir.local((ROWS,))
        tir.store(total, [0], tir.zeros())
        with T.serial(self.kernel.weight.columns // self.kernel.width) as group:
            tir.store(total, [0], self._group(block, group, tir.load(total, [0])))
        return tir.bind(tir.load(total, [0]))

    def _group(self, block: Expression, group: Expression, total: Expression) -> Expression:
        """`total` plus one activation group's contribution."""
        weight, width = self.kernel.weight, self.kernel.width
        sums = [tir.spread(tir.int32(0)), tir.spread(tir.int32(0))]
        for line in range(width // weight.chunk):
            sums = self._line(block, group * tir.int32(width // weight.chunk) + tir.int32(line), sums)
        high, low = (one.astype("float32x16") for one in sums)
        products = tir.fused_multiply_add(high, tir.spread(tir.float32(256.0)), low)
        plain = tir.bind(self.sums[self.worker, group].astype("float32"))
        if weight.offset:
            products = products - tir.spread(plain * tir.float32(weight.offset))
        scale = tir.bind(self.scales[self.worker, group])
        weight_group = tir.bind(tirx.floordiv(group * tir.int32(width), tir.int32(weight.group)))
        factor = quantized.group_vector(self.streams.scales, block, weight_group) * tir.spread(scale)
        total = tir.fused_multiply_add(products, factor, total)
        tir.prefetch(self.streams.scales, [block, weight_group, 16 * ROWS])
        if self.streams.minima is None:
            return total
        minimum = quantized.group_vector(self.streams.minima, block, weight_group)
        tir.prefetch(self.streams.minima, [block, weight_group, 16 * ROWS])
        return tir.fused_multiply_add(minimum, tir.spread(scale * plain), total)

    def _line(self, block: Expression, line: Expression, sums: list[Expression]) -> list[Expression]:
        """Add one 64-byte line of codes to the sums of both planes."""
        weight = self.kernel.weight
        packed = tir.bind(tir.load(self.streams.codes, [block, line, 0]))
        tir.prefetch(self.streams.codes, [block, line, PREFETCH_BYTES // 4])
        words = weight.chunk // 4
        for word, codes in enumerate(quantized.unpack_line(weight, packed)):
            at = line * tir.int32(words) + tir.int32(word)
            factors = [tir.bind(self.words[self.worker, plane, at]) for plane in (HIGH, LOW)]
            sums = [
                tir.bind(tir.dot4(one, codes, factor, self.instructions))
                for one, factor in zip(sums, factors, strict=True)
            ]
        return sums
