"""What dense and depthwise convolutions share: views of the buffers, rows of taps, the end of a pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.chain.code import through, within
from intaglio.kernels.chain.steps import ChainStep, operands_of
from intaglio.kernels.convolution.convolution import LANES, Convolution, padded
from intaglio.kernels.convolution.geometry import Axis
from intaglio.kernels.tir import Expression, KernelFrame, tirx


class Images:
    """Views of one call's buffers, and how values of this kind are multiplied: float32."""

    total = "float32"  # what sums are kept in
    channels = 1  # input channels that an element of a weight vector multiplies
    halves = True  # whether vectors of 8 lanes can be multiplied
    outside: Expression | None = None  # what taps outside the image add to sums; None: nothing

    def __init__(self, kernel: Convolution, frame: KernelFrame, pointers: Mapping[str, str]) -> None:
        self.kernel, self.pointers = kernel, pointers
        height, width = kernel.result_size
        self.width, self.pixels = width, height * width
        pixels = kernel.batch * kernel.size[0] * kernel.size[1]
        channels = kernel.inputs if kernel.layout == "plain" else kernel.pixel
        self.window = -(-kernel.window // self.channels)
        taps = kernel.kernel[0] * kernel.kernel[1]
        weights = kernel.blocks * LANES * taps * (1 if kernel.depthwise else self.window)
        self.input = self.view(frame, "input", pixels * channels // self.channels)
        self.weight = self.view(frame, "weight", weights)
        self.bias = self.view(frame, "bias", padded(kernel.outputs))
        results = kernel.batch * self.pixels * kernel.result_pixel
        self.result = self.view(frame, "result", results)
        self.operands = [
            self.view(frame, f"operand{i}", self._extent(step) * self._stride(step))
            for i, step in enumerate(operands_of(kernel.chain))
        ]
        self.keeps_zero = all(step.keeps_zero for step in kernel.chain)

    def view(self, frame: KernelFrame, name: str, size: int) -> Expression:
        """A pointer as a flat buffer."""
        return frame.buffer(name, (size,), self.pointers[name])

    def start(self, block: Expression, lanes: int = LANES) -> Expression:
        """What the sums of a block's channels start with."""
        return tir.bind(tir.load(self.bias, [block * tir.int32(LANES)], lanes))

    def multiplied(
        self, total: Expression, weight: Expression, value: Expression, lanes: int = LANES
    ) -> Expression:
        """`total` and one product more."""
        return tir.fused_multiply_add(weight, value, total, lanes)

    def read(self, at: Expression) -> Expression:
        """Sixteen channels of the input."""
        return tir.bind(tir.load(self.input, [at]))

    def _stride(self, step: ChainStep) -> int:
        return step.stride or padded(self.kernel.outputs)

    def _extent(self, step: ChainStep) -> int:
        return self.kernel.batch * (self.pixels if step.over == "pixels" else 1)

    def at(self, row: Expression, column: Expression, channel: Expression) -> Expression:
        """Where an input element is; `row` counts through all images."""
        kernel = self.kernel
        height, width = kernel.size
        if kernel.layout == "last":
            pixel = row * tir.int32(width) + column
            first = tir.int32(kernel.input_offset // self.channels)
            return pixel * tir.int32(kernel.pixel // self.channels) + channel + first
        image = tirx.floordiv(row, tir.int32(height))
        plane = image * tir.int32(kernel.inputs) + channel
        return (plane * tir.int32(height) + row - image * tir.int32(height)) * tir.int32(width) + column

    def channel_step(self) -> int:
        """Floats from an input channel to the next."""
        return 1 if self.kernel.layout == "last" else self.kernel.size[0] * self.kernel.size[1]

    def column_step(self) -> int:
        """Floats from an input column to the next."""
        return self.kernel.pixel // self.channels if self.kernel.layout == "last" else 1

    def finish(self, image: Expression, pixel: Expression, block: Expression, value: Expression) -> None:
        """The chain and the store of 16 channels; `pixel` counts through all images."""
        kernel = self.kernel
        first = block * tir.int32(LANES)

        def read(index: int, step: ChainStep) -> Expression:
            unit = pixel if step.over == "pixels" else image
            at = unit * tir.int32(self._stride(step)) + first + tir.int32(step.offset)
            return tir.bind(tir.load(self.operands[index], [at]))

        value = through(kernel.chain, value, read)
        if kernel.outputs % LANES and not self.keeps_zero:
            value = within(value, first, kernel.outputs)
        self.write(pixel * tir.int32(kernel.result_pixel) + first + tir.int32(kernel.result_offset), value)

    def write(self, at: Expression, value: Expression) -> None:
        """Sixteen results."""
        tir.store(self.result, [at], value)


def each_tap(axis: Axis, output: Expression, body: Callable[[Expression, Expression], None]) -> None:
    """Run `body(input, tap)` for the taps of `output` that read inside the input."""
    origin = tir.hold(output * tir.int32(axis.input_step) + tir.int32(axis.offset))
    low, high = taps_within(axis, origin, 0, axis.extent)
    with T.serial(high - low if axis.inside else tirx.Max(high - low, tir.int32(0))) as step:
        tap = tir.hold(low + step)
        body(tir.hold(origin + tap * tir.int32(axis.offset_step)), tap)


def taps_within(axis: Axis, origin: Expression, start: int, end: int) -> tuple[Expression, Expression]:
    """The taps, from … to, that read `start … end`; the first one of an output reads `origin`."""
    low, high = tir.int32(0), tir.int32(axis.taps)
    if axis.reads(0, 0) >= start and axis.reads(axis.count - 1, axis.taps - 1) < end:
        return low, high
    step = tir.int32(axis.offset_step)
    low = tirx.Max(low, tirx.floordiv(step - tir.int32(1) + tir.int32(start) - origin, step))
    high = tirx.Min(high, tirx.floordiv(tir.int32(end - 1) - origin, step) + tir.int32(1))
    return tir.hold(low), tir.hold(high)
