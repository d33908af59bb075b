"""Resizings → code: a row of the result is a unit of work; bound by the bytes that come and go."""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.chain.code import through, within
from intaglio.kernels.chain.steps import ChainStep, operands_of
from intaglio.kernels.convolution.convolution import LANES, padded
from intaglio.kernels.resize.resize import Resize
from intaglio.kernels.tir import Expression, KernelFrame, tirx


def emit_resize(kernel: Resize, frame: KernelFrame) -> None:
    """Write the code of `kernel`."""
    writer = _Writer(kernel, frame)
    frame.each_own(kernel.batch * kernel.result_size[0], writer.line)


class _Writer:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, kernel: Resize, frame: KernelFrame) -> None:
        self.kernel = kernel
        self.linear = kernel.mode == "linear"
        (height, width), pair = kernel.result_size, 2 if self.linear else 1
        pixels = kernel.batch * kernel.size[0] * kernel.size[1]
        self.input = frame.buffer("input", (pixels * kernel.pixel,), "float32")
        self.rows = frame.buffer("rows", (height, pair), "int32")
        self.columns = frame.buffer("columns", (width, pair), "int32")
        if self.linear:
            self.row_parts = frame.buffer("row_parts", (height,), "float32")
            self.column_parts = frame.buffer("column_parts", (width,), "float32")
        results = kernel.batch * height * width
        self.result = frame.buffer("result", (results * kernel.result_pixel,), "float32")
        self.operands = [
            frame.buffer(
                f"operand{i}",
                ((results if step.over == "pixels" else kernel.batch) * self.stride(step),),
                "float32",
            )
            for i, step in enumerate(operands_of(kernel.chain))
        ]

    def stride(self, step: ChainStep) -> int:
        """Floats of an operand from pixel to pixel or image to image."""
        return step.stride or padded(self.kernel.channels)

    def line(self, line: Expression) -> None:
        """One row of the result."""
        kernel = self.kernel
        height, width = (tir.int32(one) for one in kernel.result_size)
        image, row = tir.hold(tirx.floordiv(line, height)), tir.hold(tirx.floormod(line, height))
        above = [
            tir.hold((image * tir.int32(kernel.size[0]) + self.rows[row, i]) * tir.int32(kernel.size[1]))
            for i in range(2 if self.linear else 1)
        ]
        part = tir.bind(tir.spread(tir.bind(self.row_parts[row]))) if self.linear else None
        with T.serial(width) as column:
            pixel = tir.hold(line * width + column)
            sources = [
                tir.hold((start + self.columns[column, i]) * tir.int32(kernel.pixel))
                for start in above
                for i in range(2 if self.linear else 1)
            ]
            across = tir.bind(tir.spread(tir.bind(self.column_parts[column]))) if self.linear else None
            with T.serial(padded(kernel.channels) // LANES) as block:
                first = tir.bind(block * tir.int32(LANES))
                values = [self.read(source + first) for source in sources]
                self.finish(image, pixel, first, interpolated(values, part, across))

    def read(self, at: Expression) -> Expression:
        """Sixteen channels of the input."""
        return tir.bind(tir.load(self.input, [at + tir.int32(self.kernel.input_offset)]))

    def finish(self, image: Expression, pixel: Expression, first: Expression, value: Expression) -> None:
        """The chain and the store of 16 channels."""
        kernel = self.kernel

        def operand(index: int, step: ChainStep) -> Expression:
            unit = pixel if step.over == "pixels" else image
            at = unit * tir.int32(self.stride(step)) + first + tir.int32(step.offset)
            return tir.bind(tir.load(self.operands[index], [at]))

        value = through(kernel.chain, value, operand)
        if kernel.channels % LANES and not all(step.keeps_zero for step in kernel.chain):
            value = within(value, first, kernel.channels)
        at = pixel * tir.int32(kernel.result_pixel) + first + tir.int32(kernel.result_offset)
        tir.store(self.result, [at], value)


def interpolated(values: list[Expression], part: Expression, across: Expression) -> Expression:
    """A single value, or what lies among the four corners `part` of the way down and `across`."""
    if len(values) == 1:
        return values[0]
    above, below = (
        tir.hold(tir.fused_multiply_add(values[i + 1] - values[i], across, values[i])) for i in (0, 2)
    )
    return tir.hold(tir.fused_multiply_add(below - above, part, above))
