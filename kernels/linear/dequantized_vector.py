"""Quantised weights × one float32 token, for layers whose activations must not be rounded to 8 bits.

With x unquantised a group contributes s (Σ u x − offset · Σx) + m · Σx, where u are the codes.

1. Where the machine has products of bytes, x is taken as 16-bit fixed point, one scale per `width` columns,
   in two planes of bytes: q = 256 · high + low. Its error is 2⁻¹⁶ of the group's largest |x|; see
   `fixed_point`.
2. Elsewhere codes are put into mantissas and multiplied as floats; see `mantissa`.
"""

from __future__ import annotations

from dataclasses import dataclass

from intaglio.kernels.instructions import ByteDots, Instructions
from intaglio.kernels.linear import fixed_point_halves, quantized
from intaglio.kernels.linear.fixed_point import FixedPointWriter
from intaglio.kernels.linear.layout import QuantizedWeight
from intaglio.kernels.linear.mantissa import MantissaWriter
from intaglio.kernels.tir import KernelFrame

WIDEST = 64  # columns that share a scale: their sums of products of bytes stay small integers


@dataclass(frozen=True)
class DequantizedMatrixVector:
    """`result[rows] = x Wᵀ` for one float32 token.

    `tokens` says where it is: "own", each worker has its copy in its row of activation; "shared", it is row
    0. Pointers: codes, scales (, minima), activation float32 `[workers, activation_stride]`; scratch: planes
    `[workers, 2, columns]` bytes, plane_scales float32 `[workers, columns / width]`, plane_sums int32
    `[workers, columns / width]`; result float32.
    """

    weight: QuantizedWeight
    epilogue: str  # one of `epilogue.PLAIN`, or of `epilogue.GATED` (gate and up interleaved)
    activation_stride: int
    tokens: str
    result_offset: int = 0  # of row 0 in result, a multiple of 16

    @property
    def width(self) -> int:
        """Columns that share an activation scale: whole lines of codes, within a group of the weight."""
        lines = self.weight.group // self.weight.chunk
        most = WIDEST // self.weight.chunk
        return self.weight.chunk * max(one for one in range(1, most + 1) if lines % one == 0)

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        scratch = {"planes": "int32", "plane_scales": "float32", "plane_sums": "int32"}
        return {
            **quantized.weight_pointers(self.weight),
            "activation": "float32",
            **scratch,
            "result": "float32",
        }

    @property
    def scratch_bytes(self) -> dict[str, int]:
        """Sizes of the scratch buffers of one worker."""
        columns, groups = self.weight.columns, self.weight.columns // self.width
        return {"planes": 2 * columns, "plane_scales": 4 * groups, "plane_sums": 4 * groups}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        if instructions.byte_dots is ByteDots.NONE:
            mantissas = MantissaWriter(self, frame)
            mantissas.sum_groups()
            frame.each_own(self.weight.blocks // self.weight.interleave, mantissas.unit)
            return
        halves = fixed_point_halves.fits(self, instructions)
        planes = (fixed_point_halves.HalvesWriter if halves else FixedPointWriter)(self, frame, instructions)
        planes.quantize()
        frame.each_own(self.weight.blocks // self.weight.interleave, planes.unit)
