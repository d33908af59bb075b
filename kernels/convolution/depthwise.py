"""Depthwise convolutions: 16 channels of some neighbouring pixels at once.

1. every input vector is loaded once for all pixels of a tile that it belongs to;
2. tiles at the ends of a row have code of their own, as in dense convolutions;
3. a unit of work is a row: the rows it shares with its neighbours are in the cache.
"""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.convolution.convolution import LANES
from intaglio.kernels.convolution.geometry import Axis, Run, tiling, wanted
from intaglio.kernels.convolution.images import Images, each_tap
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import Expression, KernelFrame, tirx


def emit_depthwise(images: Images, frame: KernelFrame, instructions: Instructions) -> None:
    """Write the code of a convolution of `images`, phase by phase."""
    for rows in images.kernel.axes(0):
        for columns in images.kernel.axes(1):
            _Phase(images, rows, columns, 8 if instructions.wide else 4).emit(frame)


class _Phase:
    """The outputs of one phase of both axes."""

    def __init__(self, images: Images, rows: Axis, columns: Axis, most: int) -> None:
        self.images, self.kernel = images, images.kernel
        self.rows, self.columns = rows, columns
        self.tiling = tiling(columns, most)

    def emit(self, frame: KernelFrame) -> None:
        """All rows of all images."""
        frame.each_own(self.kernel.batch * self.rows.count, self.line)

    def line(self, line: Expression) -> None:
        """One row."""
        count = tir.int32(self.rows.count)
        image, row = tir.hold(tirx.floordiv(line, count)), tir.hold(tirx.floormod(line, count))
        end = tir.int32(self.columns.count - self.tiling.size)
        for alike in self.tiling.groups:
            with T.serial(alike.tiles) as index:
                start = (index + tir.int32(alike.first)) * tir.int32(self.tiling.size)
                column = tir.hold(tirx.Min(start, end))
                with T.serial(self.kernel.blocks) as block:
                    self.tile(image, row, column, block, alike.runs)

    def tile(
        self, image: Expression, row: Expression, column: Expression, block: Expression, runs: tuple[Run, ...]
    ) -> None:
        """Some pixels of 16 channels."""
        images, size = self.images, self.tiling.size
        total = tir.local((size, LANES))
        bias = images.start(block)
        for pixel in range(size):
            tir.store(total, [pixel, 0], bias)

        def taps(source: Expression, tap: Expression) -> None:
            source = image * tir.int32(self.kernel.size[0]) + source
            start = column * tir.int32(self.columns.input_step)
            at = tir.hold(images.at(source, start, block * tir.int32(LANES)))
            tap = tap * tir.int32(self.rows.tap_step) + tir.int32(self.rows.tap)
            self.multiply(at, tir.hold(tap * tir.int32(self.kernel.kernel[1])), block, runs, total)

        each_tap(self.rows, row, taps)
        row = row * tir.int32(self.rows.step) + tir.int32(self.rows.start)
        first = column * tir.int32(self.columns.step) + tir.int32(self.columns.start)
        first = tir.hold(image * tir.int32(images.pixels) + row * tir.int32(images.width) + first)
        for pixel in range(size):
            to = first + tir.int32(pixel * self.columns.step)
            images.finish(image, to, block, tir.bind(tir.load(total, [pixel, 0])))

    def multiply(
        self,
        at: Expression,
        weight_row: Expression,
        block: Expression,
        runs: tuple[Run, ...],
        total: Expression,
    ) -> None:
        """One row of taps: each input vector times the weights of all pixels that want it."""
        weights = {
            tap: self.weight(weight_row, tap, block)
            for run in runs
            for tap in range(run.first, run.first + run.taps)
        }
        for column, readers in sorted(wanted(self.columns, runs).items()):
            place = at + tir.int32((column + self.columns.offset) * self.kernel.pixel)
            value = self.images.read(place)
            for pixel, tap in readers:
                running = tir.fused_multiply_add(value, weights[tap], tir.load(total, [pixel, 0]))
                tir.store(total, [pixel, 0], running)

    def weight(self, row: Expression, tap: int, block: Expression) -> Expression:
        """The weights of a tap for 16 channels."""
        place = row + tir.int32(tap * self.columns.tap_step + self.columns.tap)
        at = place * tir.int32(self.kernel.blocks * LANES) + block * tir.int32(LANES)
        return tir.bind(tir.load(self.images.weight, [at]))
