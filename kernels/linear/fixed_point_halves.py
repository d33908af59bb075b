"""The products of `fixed_point.py` for 8-bit codes and families whose products of bytes come in pairs.

There a product of two planes of bytes takes twelve operations for 32 bytes of codes. The token's numbers as
they are, of 16 bits, times codes widened to 16 bits take six, with the same sums: even columns in one plane,
odd ones in the other, since masking and shifting widen every second byte of a word of codes.
"""

from __future__ import annotations

from intaglio.kernels import tir
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.linear.fixed_point import LARGEST, FixedPointWriter, VectorKernel
from intaglio.kernels.linear.matrix_vector import PREFETCH_BYTES
from intaglio.kernels.tir import Expression, KernelFrame, tirx

EVEN, ODD = 0, 1
MOST_COLUMNS = int(2**31 / (255 * (LARGEST + 1)))  # whose products are summed in 32 bits


def fits(kernel: VectorKernel, instructions: Instructions) -> bool:
    """Whether this is the way to multiply for `kernel`."""
    return instructions.byte_dots.in_pairs and kernel.weight.bits == 8 and kernel.width <= MOST_COLUMNS


class HalvesWriter(FixedPointWriter):
    """The vector kernel with one product of 16-bit numbers for two of bytes."""

    def __init__(self, kernel: VectorKernel, frame: KernelFrame, instructions: Instructions) -> None:
        super().__init__(kernel, frame, instructions)
        shape = (frame.workers, 2, kernel.weight.columns // 2)
        self.halves = frame.buffer("planes", shape, "int16")

    def _quantize_vector(self, at: Expression, inverse: Expression, total: Expression, lanes: int) -> None:
        scaled = tir.load(self.activation, [self.row, at], lanes) * tir.spread(inverse, lanes)
        code = tir.hold(tir.round_even(scaled, lanes).astype(f"int32x{lanes}"))
        for plane in (EVEN, ODD):
            some = tirx.Shuffle([code], [tir.int32(lane) for lane in range(plane, lanes, 2)])
            place = [self.worker, plane, tirx.floordiv(at, tir.int32(2))]
            tir.store(self.halves, place, some.astype(f"int16x{lanes // 2}"))
        tir.store(total, [0], tir.load(total, [0], lanes) + code)

    def _line(self, block: Expression, line: Expression, sums: list[Expression]) -> list[Expression]:
        """Add one 64-byte line of codes to the second sum; the first stays zero."""
        codes = tir.bind(tir.load(self.streams.codes, [block, line, 0]))
        tir.prefetch(self.streams.codes, [block, line, PREFETCH_BYTES // 4])
        even, odd = (tir.bind(self.words[self.worker, plane, line]) for plane in (EVEN, ODD))
        return [sums[0], tir.bind(tir.dot4_halves(sums[1], codes, even, odd))]
