"""Poolings → code.

1. sixteen channels of some neighbouring pixels of a row at once; every input is loaded once for all of them;
2. tiles at the ends of a row, some of whose taps are outside, have code of their own;
3. a window over the whole image is summed up in four accumulators, workers sharing the channels.
"""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.convolution.convolution import LANES, padded
from intaglio.kernels.convolution.geometry import Axis, Run, tiling, wanted
from intaglio.kernels.convolution.images import each_tap, taps_within
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.pooling.pooling import Pooling
from intaglio.kernels.tir import Expression, KernelFrame, tirx

ACCUMULATORS = 4
LOWEST = {"float32": -float("inf"), "uint8": 0, "int8": -128}


def emit_pooling(kernel: Pooling, frame: KernelFrame, instructions: Instructions) -> None:
    """Write the code of `kernel`."""
    writer = _Writer(kernel, frame, 8 if instructions.wide else 4)
    blocks = padded(kernel.channels) // LANES
    if kernel.whole:
        frame.each_own(kernel.batch * blocks, writer.image)
    else:
        frame.each_own(kernel.batch * kernel.result_size[0], writer.line)


class _Writer:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, kernel: Pooling, frame: KernelFrame, most: int) -> None:
        self.kernel = kernel
        self.rows, self.columns = kernel.axis(0), kernel.axis(1)
        self.blocks = padded(kernel.channels) // LANES
        pixels = kernel.batch * kernel.size[0] * kernel.size[1]
        results = kernel.batch * self.rows.count * self.columns.count
        self.input = frame.buffer("input", (pixels * kernel.pixel,), kernel.element)
        self.result = frame.buffer("result", (results * kernel.result_pixel,), kernel.element)
        self.tiling = tiling(self.columns, most)

    def start(self) -> Expression:
        """What a maximum or a sum starts with."""
        number = LOWEST[self.kernel.element] if self.kernel.mode == "max" else 0.0
        return tir.spread(tir.constant(number, self.kernel.element))

    def joined(self, total: Expression, value: Expression) -> Expression:
        """One more value."""
        return tirx.Max(total, value) if self.kernel.mode == "max" else total + value

    def write(self, pixel: Expression, block: Expression, value: Expression) -> None:
        """Sixteen channels of the result; `pixel` counts through all images."""
        at = pixel * tir.int32(self.kernel.result_pixel) + block * tir.int32(LANES)
        tir.store(self.result, [at + tir.int32(self.kernel.result_offset)], value)

    def image(self, unit: Expression) -> None:
        """Sixteen channels of an image in one window."""
        kernel, pixels = self.kernel, self.kernel.size[0] * self.kernel.size[1]
        image = tir.hold(tirx.floordiv(unit, tir.int32(self.blocks)))
        block = tir.hold(tirx.floormod(unit, tir.int32(self.blocks)))
        first = block * tir.int32(LANES) + tir.int32(kernel.input_offset)
        first = tir.hold(image * tir.int32(pixels * kernel.pixel) + first)
        totals = tir.local((ACCUMULATORS, LANES), kernel.element)
        for i in range(ACCUMULATORS):
            tir.store(totals, [i, 0], self.start())
        with T.serial(pixels // ACCUMULATORS) as step:
            at = tir.hold(first + step * tir.int32(ACCUMULATORS * kernel.pixel))
            for i in range(ACCUMULATORS):
                self.join(totals, i, at + tir.int32(i * kernel.pixel))
        for i in range(pixels % ACCUMULATORS):
            self.join(
                totals, i, first + tir.int32((pixels // ACCUMULATORS * ACCUMULATORS + i) * kernel.pixel)
            )
        a, b, c, d = (tir.bind(tir.load(totals, [i, 0])) for i in range(ACCUMULATORS))
        total = self.joined(self.joined(a, b), self.joined(c, d))
        if kernel.mode != "max":
            total = total * tir.spread(tir.float32(1.0 / pixels))
        self.write(image, block, total)

    def join(self, totals: Expression, i: int, at: Expression) -> None:
        """Sixteen more values into accumulator i."""
        value = tir.bind(tir.load(self.input, [at]))
        tir.store(totals, [i, 0], self.joined(tir.load(totals, [i, 0]), value))

    def line(self, line: Expression) -> None:
        """One row of the result."""
        count = tir.int32(self.rows.count)
        image, row = tir.hold(tirx.floordiv(line, count)), tir.hold(tirx.floormod(line, count))
        end = tir.int32(self.columns.count - self.tiling.size)
        for alike in self.tiling.groups:
            with T.serial(alike.tiles) as index:
                start = (index + tir.int32(alike.first)) * tir.int32(self.tiling.size)
                self.tile(image, row, tir.hold(tirx.Min(start, end)), alike.runs)

    def tile(self, image: Expression, row: Expression, column: Expression, runs: tuple[Run, ...]) -> None:
        """Some pixels, all channels."""
        size = self.tiling.size
        first = tir.hold((image * tir.int32(self.rows.count) + row) * tir.int32(self.columns.count) + column)
        factors = [self.factor(row, column + tir.int32(pixel)) for pixel in range(size)]
        with T.serial(self.blocks) as block:
            totals = tir.local((size, LANES), self.kernel.element)
            for pixel in range(size):
                tir.store(totals, [pixel, 0], self.start())
            each_tap(self.rows, row, lambda source, _: self.taps(image, source, column, block, runs, totals))
            for pixel, factor in enumerate(factors):
                value = tir.bind(tir.load(totals, [pixel, 0]))
                self.write(first + tir.int32(pixel), block, value if factor is None else value * factor)

    def taps(
        self,
        image: Expression,
        source: Expression,
        column: Expression,
        block: Expression,
        runs: tuple[Run, ...],
        totals: Expression,
    ) -> None:
        """One row of taps."""
        kernel, columns = self.kernel, self.columns
        start = column * tir.int32(columns.input_step) + tir.int32(columns.offset)
        at = (image * tir.int32(kernel.size[0]) + source) * tir.int32(kernel.size[1]) + start
        at = at * tir.int32(kernel.pixel) + block * tir.int32(LANES) + tir.int32(kernel.input_offset)
        at = tir.hold(at)
        for column_read, readers in sorted(wanted(columns, runs).items()):
            value = tir.bind(tir.load(self.input, [at + tir.int32(column_read * kernel.pixel)]))
            for pixel, _ in readers:
                tir.store(totals, [pixel, 0], self.joined(tir.load(totals, [pixel, 0]), value))

    def factor(self, row: Expression, column: Expression) -> Expression | None:
        """What the sum of a pixel is multiplied by; `None` for maxima."""
        if self.kernel.mode == "max":
            return None
        counts = self.counted(self.rows, 0, row) * self.counted(self.columns, 1, column)
        return tir.hold(tir.spread(tir.hold(tir.float32(1.0) / counts.astype("float32"))))

    def counted(self, axis: Axis, number: int, output: Expression) -> Expression:
        """How many rows or columns of a window count."""
        origin = tir.hold(output * tir.int32(axis.input_step) + tir.int32(axis.offset))
        low, high = taps_within(axis, origin, *self.kernel.counted(number))
        return high - low
