"""Quantised matrix × many vectors on a coarser grid: prefill where the plan allows it (`prefill=int8`).

While a panel of 32 rows is unpacked, its weights are rounded anew to bytes with one scale S per row:

    v = round(w / S) + 128,   S = max over the row's groups of what its grid can hold / 127

so that groups of columns need no scales or minima of the weight any more, only those of the activations:

    y = S · Σ_groups s_a · (Σ v a − 128 · Σ a)

1. A multiply-add per group, token and vector is left where `matrix_matrix` has two or three and a
   multiplication: of eight products of bytes each, that is 8 / 9 of the peak at best instead of 8 / 11.
2. Codes become floats in mantissas and integers again by adding 1.5 · 2²³, which rounds halves to even.
3. The error of a weight is at most S / 2, 1 / 254 of the largest value that the row's grid can hold.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.linear import quantized
from intaglio.kernels.linear.layout import ROWS
from intaglio.kernels.linear.mantissa import in_mantissa
from intaglio.kernels.linear.matrix_matrix import MatrixWriter, QuantizedMatrixMatrix
from intaglio.kernels.tir import Expression, KernelFrame, tirx

OFFSET = 128  # of the new codes
LARGEST = 127
ROUNDER = 1.5 * 2**23  # a float32 near it has the integers as its last bits


@dataclass(frozen=True)
class RequantizedMatrixMatrix(QuantizedMatrixMatrix):
    """`result[token, rows] = x W̃ᵀ` for `count` quantised tokens, W̃ being W rounded as above."""

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        writer = _Writer(self, instructions, frame)
        quantized.each_panel(frame, self.weight, writer.panel)


class _Writer(MatrixWriter):
    """The tiles of `matrix_matrix` over rounded rows."""

    def __init__(
        self, kernel: RequantizedMatrixMatrix, instructions: Instructions, frame: KernelFrame
    ) -> None:
        super().__init__(kernel, instructions, frame)
        self.row_scales = tir.local((2, ROWS))

    def unpack(self, block: Expression, blocks: int) -> None:
        """Codes to rounded bytes, in the order in which the tiles read them; and the rows' scales."""
        for part in range(blocks):
            one = tir.bind(block + tir.int32(part))
            self._find_scale(one, part)
            inverse = tir.hold(tir.spread(tir.float32(1.0)) / tir.load(self.row_scales, [part, 0]))
            with T.serial(self.kernel.weight.columns // self.kernel.weight.group) as group:
                self._round_group(one, part, group, inverse)

    def _find_scale(self, block: Expression, part: int) -> None:
        """S of a block's rows; 1 for rows of zeros."""
        bound = tir.local((ROWS,))
        tir.store(bound, [0], tir.zeros())
        with T.serial(self.kernel.weight.columns // self.kernel.weight.group) as group:
            for end in self._ends(block, group):
                tir.store(bound, [0], tirx.Max(tir.load(bound, [0]), tir.absolute(end)))
        scale = tir.load(bound, [0]) * tir.spread(tir.float32(1.0 / LARGEST))
        one = tir.spread(tir.float32(1.0))
        tir.store(self.row_scales, [part, 0], tirx.Select(scale > tir.zeros(), scale, one))

    def _ends(self, block: Expression, group: Expression) -> list[Expression]:
        """The smallest and the largest weight that a group's grid can hold."""
        weight = self.kernel.weight
        scale = tir.bind(quantized.group_vector(self.streams.scales, block, group))
        low, high = (
            scale * tir.spread(tir.float32(code - weight.offset)) for code in (0, 2**weight.bits - 1)
        )
        if self.streams.minima is None:
            return [low, high]
        minimum = tir.bind(quantized.group_vector(self.streams.minima, block, group))
        return [low + minimum, high + minimum]

    def _round_group(self, block: Expression, part: int, group: Expression, inverse: Expression) -> None:
        """One group of columns: v = (1 + u / 2^bits) · slope + start, whose last bits are the code."""
        weight = self.kernel.weight
        unit = 2**weight.bits
        step = tir.hold(quantized.group_vector(self.streams.scales, block, group) * inverse)
        zero = tir.spread(tir.float32(ROUNDER + OFFSET))
        lowest = step * tir.spread(tir.float32(-(unit + weight.offset)))
        if self.streams.minima is not None:
            minimum = quantized.group_vector(self.streams.minima, block, group)
            lowest = tir.fused_multiply_add(minimum, inverse, lowest)
        # The small numbers first: near ROUNDER nothing but integers is left of them.
        lowest, slope = tir.hold(lowest), tir.hold(step * tir.spread(tir.float32(unit)))
        lines = weight.group // weight.chunk
        with T.serial(lines) as line:
            self._round_line(block, part, group * tir.int32(lines) + line, slope, lowest, zero)

    def _round_line(
        self,
        block: Expression,
        part: int,
        line: Expression,
        slope: Expression,
        lowest: Expression,
        zero: Expression,
    ) -> None:
        weight = self.kernel.weight
        packed = tir.bind(tir.load(self.streams.codes, [block, line, 0]))
        words = weight.chunk // 4
        for word, codes in enumerate(quantized.unpack_line(weight, packed)):
            rounded = tir.spread(tir.int32(0))
            for byte in range(4):
                exact = tir.fused_multiply_add(in_mantissa(weight, codes, byte), slope, lowest)
                code = tir.reinterpret(exact + zero, "int32x16") & tir.spread(tir.int32(255))
                rounded = tir.hold(rounded | (code << tir.spread(tir.int32(8 * byte))))
            at = [self.frame.worker, line * tir.int32(words) + tir.int32(word), part, 0]
            tir.store(self.unpacked, at, rounded)

    def group(
        self, token: Expression, block: Expression, blocks: int, group: Expression, total: Expression
    ) -> None:
        """Add one activation group's contribution to `total`, in units of the rows' scales."""
        del block  # the rows' scales wait for the end
        width = self.kernel.activation_group
        partial = tir.local((self.tokens, blocks, ROWS), "int32")
        for row in range(self.tokens):
            codes = tir.bind(self.activation.sums[token + tir.int32(row), group])
            for part in range(blocks):
                tir.store(partial, [row, part, 0], tir.spread(codes * tir.int32(-OFFSET)))
        self.multiply(token, blocks, group * tir.int32(width // 4), partial)
        for row in range(self.tokens):
            factor = tir.spread(tir.bind(self.activation.scales[token + tir.int32(row), group]))
            for part in range(blocks):
                at = [row, part, 0]
                value = tir.load(partial, at).astype("float32x16")
                tir.store(total, at, tir.fused_multiply_add(value, factor, tir.load(total, at)))

    def write(self, token: Expression, block: Expression, sums: list[Expression]) -> None:
        """The epilogue for one token, in units of the result."""
        scaled = [one * tir.load(self.row_scales, [part, 0]) for part, one in enumerate(sums)]
        super().write(token, block, [tir.hold(one) for one in scaled])
