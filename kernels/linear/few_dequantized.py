"""Quantised weights × a few float32 rows: batches and drafts where activations must not be rounded to 8 bits.

As for one vector: rows in two planes of bytes where the machine has products of bytes (`few_fixed_point`),
codes in the mantissas of floats elsewhere (`few_mantissas`). Either way a line of codes is taken apart once
for all rows of a tile. The floor is the larger of the weight's bytes over the bandwidth and twice the
products over the peak of 8-bit dot products, or the products over the float32 peak.

The operations of an output are those of `DequantizedMatrixVector`, in the same order: results are equal to
the bit.
"""

from __future__ import annotations

from dataclasses import dataclass

from intaglio.kernels.instructions import ByteDots, Instructions
from intaglio.kernels.linear.dequantized_vector import DequantizedMatrixVector
from intaglio.kernels.linear.few_fixed_point import FewFixedPointWriter
from intaglio.kernels.linear.few_mantissas import FewMantissasWriter
from intaglio.kernels.linear.layout import QuantizedWeight
from intaglio.kernels.linear.row_tiles import PADDING, each_block
from intaglio.kernels.tir import KernelFrame


@dataclass(frozen=True)
class DequantizedFewVectors:
    """`result[row, outputs] = x Wᵀ` for `count` float32 rows.

    Pointers: codes, scales (, minima), activation float32 `[rows, activation_stride]`; scratch, one for each
    of `workers · room` rows: planes `[2, columns]` bytes, plane_scales float32 and plane_sums int32 `[columns
    / width]`, shifts float32 alike where the weight has an offset, lows where it has minima; result float32
    `[rows, result_stride]`. Buffers of rows hold `PADDING` rows more than `count`.
    """

    weight: QuantizedWeight
    epilogue: str  # one of `epilogue.PLAIN`, or of `epilogue.GATED` (gate and up interleaved)
    activation_stride: int
    result_stride: int
    most_rows: int  # of a call
    result_offset: int = 0  # of output 0 in a row of results, a multiple of 16

    @property
    def vector(self) -> DequantizedMatrixVector:
        """The kernel for one row."""
        return DequantizedMatrixVector(self.weight, self.epilogue, self.activation_stride, "shared")

    @property
    def room(self) -> int:
        """Rows of scratch for each worker."""
        return self.most_rows + PADDING

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        given = self.vector.pointers
        del given["result"]
        shifts = {"shifts": "float32"} if self.weight.offset else {}
        lows = {"lows": "float32"} if self.weight.minimum else {}
        return {**given, **shifts, **lows, "result": "float32"}

    @property
    def scratch_bytes(self) -> dict[str, int]:
        """Sizes of the scratch buffers of one worker."""
        known = self.vector.scratch_bytes
        sizes = {name: self.room * size for name, size in known.items()}
        sizes |= dict.fromkeys(("shifts", "lows"), sizes["plane_scales"])
        return {name: size for name, size in sizes.items() if name in self.pointers}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        if instructions.byte_dots is ByteDots.NONE:
            mantissas = FewMantissasWriter(self, frame)
            mantissas.prepare()
            each_block(self, frame, instructions, mantissas.block)
            return
        planes = FewFixedPointWriter(self, frame, instructions)
        planes.prepare()
        each_block(self, frame, instructions, planes.block)
