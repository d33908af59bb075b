"""Quantised weights × a few float32 rows without byte products: codes in the mantissas of floats, as for
one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.linear import quantized
from intaglio.kernels.linear.layout import ROWS
from intaglio.kernels.linear.mantissa import in_mantissa
from intaglio.kernels.linear.matrix_vector import PREFETCH_BYTES
from intaglio.kernels.linear.row_tiles import PADDING, group_vectors
from intaglio.kernels.tir import Expression, KernelFrame

if TYPE_CHECKING:
    from intaglio.kernels.linear.few_dequantized import DequantizedFewVectors

CHAINS = 2  # of multiply-adds for each row and group


class FewMantissasWriter:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, kernel: DequantizedFewVectors, frame: KernelFrame) -> None:
        weight, rows = kernel.weight, frame.count + tir.int32(PADDING)
        self.weight, self.frame = weight, frame
        self.streams = quantized.weight_streams(frame, weight)
        self.activation = frame.buffer("activation", (rows, kernel.activation_stride), "float32")
        self.groups = weight.columns // weight.group
        self.sums = frame.buffer("plane_scales", (frame.workers, kernel.room, self.groups), "float32")

    def prepare(self) -> None:
        """Σx of every group of every row, for this worker."""
        width = self.weight.group
        lanes = math.gcd(ROWS, width)
        with T.serial(self.frame.count) as row, T.serial(self.groups) as group:
            running = tir.local((lanes,))
            tir.store(running, [0], tir.zeros(lanes))
            with T.serial(width // lanes) as vector:
                column = group * tir.int32(width) + vector * tir.int32(lanes)
                part = tir.load(self.activation, [row, column], lanes)
                tir.store(running, [0], tir.load(running, [0], lanes) + part)
            total = tir.sum_lanes(tir.load(running, [0], lanes))
            tir.store(self.sums, [self.frame.worker, row, group], total)

    def block(self, block: Expression, first: Expression, rows: int) -> list[Expression]:
        """Sixteen outputs of each row."""
        total = [tir.local((ROWS,)) for _ in range(rows)]
        for one in total:
            tir.store(one, [0], tir.zeros())
        with T.serial(self.groups) as group:
            self._group(block, group, first, total)
        return [tir.bind(tir.load(one, [0])) for one in total]

    def _group(
        self, block: Expression, group: Expression, first: Expression, total: list[Expression]
    ) -> None:
        """Add one group of columns to `total`."""
        weight = self.weight
        lines, unit = weight.group // weight.chunk, 1 << weight.bits
        partial = [[tir.local((ROWS,)) for _ in range(CHAINS)] for _ in total]
        for row in partial:
            for chain in row:
                tir.store(chain, [0], tir.zeros())
        with T.serial(lines) as line:
            self._line(block, group * tir.int32(lines) + line, first, partial)
        scale, minimum = group_vectors(self.streams, block, group)
        for index, (one, chains) in enumerate(zip(total, partial, strict=True)):
            plain = tir.bind(self.sums[self.frame.worker, first + tir.int32(index), group])
            mantissas = tir.load(chains[0], [0]) + tir.load(chains[1], [0])
            ones = tir.spread(plain * tir.float32(-(unit + weight.offset)))
            products = tir.fused_multiply_add(mantissas, tir.spread(tir.float32(unit)), ones)
            running = tir.fused_multiply_add(products, scale, tir.load(one, [0]))
            if minimum is not None:
                running = tir.fused_multiply_add(minimum, tir.spread(plain), running)
            tir.store(one, [0], running)

    def _line(
        self, block: Expression, line: Expression, first: Expression, partial: list[list[Expression]]
    ) -> None:
        """Add one 64-byte line of codes, taken apart once for all rows."""
        weight = self.weight
        packed = tir.bind(tir.load(self.streams.codes, [block, line, 0]))
        tir.prefetch(self.streams.codes, [block, line, PREFETCH_BYTES // 4])
        for word, codes in enumerate(quantized.unpack_line(weight, packed)):
            for byte in range(4):
                column = line * tir.int32(weight.chunk) + tir.int32(4 * word + byte)
                mantissa = tir.hold(in_mantissa(weight, codes, byte))
                for row, chains in enumerate(partial):
                    at = (first + tir.int32(row), column)
                    activation = tir.spread(tir.bind(self.activation[at]))
                    chain = chains[byte % CHAINS]
                    running = tir.fused_multiply_add(mantissa, activation, tir.load(chain, [0]))
                    tir.store(chain, [0], running)
