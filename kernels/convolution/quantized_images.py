"""Views of 8-bit images, and how their values are multiplied.

Dense: four channels of a pixel, the same for all lanes, times four weights of 16 output channels, added up
in 32 bits. Depthwise: there is nothing to add up in fours, so bytes are widened to float32, in which sums of
less than 2²⁴ are exact; the zero point is subtracted there, so that taps outside count for nothing.
"""

from __future__ import annotations

from intaglio.kernels import tir
from intaglio.kernels.convolution.convolution import LANES, padded
from intaglio.kernels.convolution.images import Images
from intaglio.kernels.convolution.quantized import QuantizedConvolution
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import Expression, KernelFrame, tirx


class _Bytes(Images):
    """What both kinds share: scales, and results of 8 bits."""

    halves = False

    def __init__(self, kernel: QuantizedConvolution, frame: KernelFrame, instructions: Instructions) -> None:
        super().__init__(kernel.shape, frame, kernel.pointers)
        self.quantized, self.instructions = kernel, instructions
        self.scale = self.view(frame, "scale", padded(kernel.shape.outputs))
        if kernel.padded_taps:
            taps = kernel.shape.kernel[0] * kernel.shape.kernel[1]
            self.outside = self.view(frame, "outside", taps * padded(kernel.shape.outputs))

    def scales(self, block: Expression) -> Expression:
        """Of 16 channels."""
        return tir.bind(tir.load(self.scale, [block * tir.int32(LANES)]))

    def write(self, at: Expression, value: Expression) -> None:
        """Sixteen results."""
        if not self.quantized.result_scale:
            tir.store(self.result, [at], value)
            return
        inverse = tir.spread(tir.float32(1.0 / self.quantized.result_scale))
        zero = tir.spread(tir.float32(float(self.quantized.result_zero)))
        code = tir.hold(tir.round_even(value * inverse) + zero)
        code = tir.hold(tirx.Max(tir.zeros(), tirx.Min(tir.spread(tir.float32(255.0)), code)))
        tir.store(self.result, [at], code.astype(f"int32x{LANES}").astype(f"uint8x{LANES}"))


class ByteDots(_Bytes):
    """Dense convolutions."""

    total = "int32"
    channels = 4

    def multiplied(
        self, total: Expression, weight: Expression, value: Expression, lanes: int = LANES
    ) -> Expression:
        """`total` and four products more in every lane."""
        del lanes  # always 16
        return tir.dot4_vectors(total, value, weight, self.instructions)

    def finish(self, image: Expression, pixel: Expression, block: Expression, value: Expression) -> None:
        """Sums become float32 first."""
        scaled = tir.hold(value.astype(f"float32x{LANES}") * self.scales(block))
        super().finish(image, pixel, block, scaled)


class ByteChannels(_Bytes):
    """Depthwise convolutions."""

    def start(self, block: Expression, lanes: int = LANES) -> Expression:
        """Nothing: a bias might leave no room for exact sums."""
        del block, lanes
        return tir.zeros()

    def read(self, at: Expression) -> Expression:
        """Sixteen channels of the input, less its zero."""
        value = tir.load(self.input, [at]).astype(f"int32x{LANES}").astype(f"float32x{LANES}")
        return tir.hold(value - tir.spread(tir.float32(float(self.quantized.input_zero))))

    def finish(self, image: Expression, pixel: Expression, block: Expression, value: Expression) -> None:
        """Scale and bias at once."""
        bias = super().start(block)
        scaled = tir.hold(tir.fused_multiply_add(value, self.scales(block), bias))
        super().finish(image, pixel, block, scaled)
