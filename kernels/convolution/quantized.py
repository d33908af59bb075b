"""Convolutions of 8-bit images and weights as data. Importing this needs no TVM."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from intaglio.compiler.errors import CodegenError
from intaglio.kernels.chain.steps import operands_of
from intaglio.kernels.convolution.convolution import Convolution

if TYPE_CHECKING:
    from intaglio.kernels.instructions import Instructions
    from intaglio.kernels.tir import KernelFrame


@dataclass(frozen=True)
class QuantizedConvolution:
    """`chain(scale · (bias + Σ weight · (input - input_zero)))`, in float32 or rounded to 8 bits again.

    Input uint8, channels last (signed codes are unsigned ones with another zero: both ends plus 128); weights
    int8 with a scale for each output channel, which includes the input's; sums are exact in 32 bits. Strides
    and offsets of `shape` are in elements, of the input multiples of 4. A uint8 result is
    `clamp(round(value / result_scale) + result_zero)`, halves to even; its padding holds anything.
    Pointers: input, weight (see `quantized_packing.pack_weight`), bias int32 (dense) or float32 (depthwise,
    times the scale) and scale float32, both `[channels rounded up to 16]`, outside int32 `[taps, channels
    rounded up to 16]` (where `padded_taps`: their share of `bias`), operand0 … of the chain float32, result.

    Raises:
        CodegenError: if sizes contradict each other, or for a transposed convolution.
    """

    shape: Convolution
    input_zero: int
    result_scale: float = 0.0  # 0: the result is float32
    result_zero: int = 0

    def __post_init__(self) -> None:
        shape, problems = self.shape, []
        if shape.transposed or shape.layout != "last":
            problems.append("only ordinary convolutions of channels-last images have 8-bit kernels")
        if not 0 <= self.input_zero <= 255 or not 0 <= self.result_zero <= 255 or self.result_scale < 0:
            problems.append("zeros are 0 … 255, and scales positive")
        if not shape.depthwise and (shape.pixel % 4 or shape.input_offset % 4):
            problems.append(f"channels {shape.input_offset} of {shape.pixel} are not multiples of 4")
        if not shape.depthwise and shape.groups > 1 and shape.inputs // shape.groups % 4:
            problems.append("groups have multiples of 4 input channels")
        if problems:
            raise CodegenError("quantized convolution: " + "; ".join([*problems, "please report this"]))

    @property
    def padded_taps(self) -> bool:
        """Whether there are taps outside the image that are not zero."""
        axes = [axis for i in range(2) for axis in self.shape.axes(i)]
        return not self.shape.depthwise and self.input_zero != 0 and not all(one.inside for one in axes)

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order; dense convolutions read input and weight four bytes at a time."""
        dense = not self.shape.depthwise
        found = dict.fromkeys(("input", "weight", "bias"), "int32") if dense else {}
        found = found or {"input": "uint8", "weight": "float32", "bias": "float32"}
        found["scale"] = "float32"
        if self.padded_taps:
            found["outside"] = "int32"
        found |= {f"operand{i}": "float32" for i in range(len(operands_of(self.shape.chain)))}
        return found | {"result": "uint8" if self.result_scale else "float32"}

    @property
    def bare(self) -> Convolution:
        """The convolution without what follows."""
        return dataclasses.replace(self.shape, chain=())

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        from intaglio.kernels.convolution.dense import emit_dense  # imports TVM
        from intaglio.kernels.convolution.depthwise import emit_depthwise
        from intaglio.kernels.convolution.quantized_images import ByteChannels, ByteDots

        if self.shape.depthwise:
            emit_depthwise(ByteChannels(self, frame, instructions), frame, instructions)
        else:
            emit_dense(ByteDots(self, frame, instructions), frame, instructions)
