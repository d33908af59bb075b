"""One tile of a dense convolution: its sums in registers, from the bias to the chain.

Where the last block has at most 8 channels, half a vector is computed for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.convolution.convolution import LANES, Convolution
from intaglio.kernels.convolution.geometry import Axis, Run, Tiling
from intaglio.kernels.convolution.images import Images, each_tap, taps_within
from intaglio.kernels.tir import Expression, tirx

BODY = 16  # multiply-adds in a loop's body that make its own instructions cheap


@dataclass(frozen=True)
class Phase:
    """The outputs of one phase of both axes, and how they are tiled."""

    images: Images
    rows: Axis
    columns: Axis
    tiling: Tiling

    @property
    def kernel(self) -> Convolution:
        """The convolution."""
        return self.images.kernel


@dataclass(frozen=True)
class Place:
    """A tile: pixels `column …` of row `row`, which counts through all images, as does `image`."""

    image: Expression
    row: Expression
    column: Expression


@dataclass
class Tile:
    """The code of one tile."""

    phase: Phase
    place: Place
    group: Expression
    interleaved: int  # blocks of the group
    first: Expression  # block of the group, from which on
    blocks: int  # are computed
    runs: tuple[Run, ...]
    half: bool = False  # the last block has at most 8 channels, and half a vector will do

    def emit(self) -> None:
        """Sums from the bias on, then the chain."""
        kernel, images, size = self.phase.kernel, self.phase.images, self.phase.tiling.size
        together = tir.int32(kernel.together)
        self.block = tir.hold(self.group * together + self.first)
        taps = kernel.kernel[0] * kernel.kernel[1] * images.window * LANES
        self.weights = tir.hold(self.group * together * tir.int32(taps) + self.first * tir.int32(LANES))
        self.channel = self.first_channel()
        self.lanes = [LANES] * self.blocks
        if self.half:
            self.lanes[-1] = LANES // 2
        self.totals = [tir.local((size, lanes), images.total) for lanes in self.lanes]
        for block, (total, lanes) in enumerate(zip(self.totals, self.lanes, strict=True)):
            start = images.start(self.block + tir.int32(block), lanes)
            for pixel in range(size):
                tir.store(total, [pixel, 0], start)
        each_tap(self.phase.rows, self.place.row, self.row)
        if images.outside is not None and not self.phase.rows.inside:
            self.rows_outside()
        self.finish()

    def first_channel(self) -> Expression:
        """The first input channel of the group's window."""
        kernel = self.phase.kernel
        if kernel.groups == 1:
            return tir.int32(0)
        outputs, inputs = kernel.outputs // kernel.groups, kernel.inputs // kernel.groups
        one = tirx.floordiv(self.block * tir.int32(LANES), tir.int32(outputs)) * tir.int32(inputs)
        one = tirx.Min(one, tir.int32(kernel.inputs - kernel.window))
        return tir.hold(tirx.floordiv(one, tir.int32(self.phase.images.channels)))

    def row(self, row: Expression, tap: Expression) -> None:
        """The taps of one input row."""
        kernel, rows, columns = self.phase.kernel, self.phase.rows, self.phase.columns
        row = tir.hold(self.place.image * tir.int32(kernel.size[0]) + row)
        weight_row = tir.hold(
            (tap * tir.int32(rows.tap_step) + tir.int32(rows.tap)) * tir.int32(kernel.kernel[1])
        )
        for run in self.runs:
            with T.serial(run.taps) as index:
                tap = index + tir.int32(run.first)
                column = self.place.column * tir.int32(columns.input_step) + tir.int32(columns.offset)
                column = tir.hold(column + tap * tir.int32(columns.offset_step))
                weight = weight_row + tap * tir.int32(columns.tap_step) + tir.int32(columns.tap)
                self.channels(row, column, tir.hold(weight), run.positions)
        if self.phase.images.outside is not None:
            self.columns_outside(weight_row)

    def columns_outside(self, weight_row: Expression) -> None:
        """What taps beyond the ends of a row add."""
        size, columns = self.phase.tiling.size, self.phase.columns
        for tap in range(columns.taps):
            runs = [run for run in self.runs if run.first <= tap < run.first + run.taps]
            inside = runs[0].positions if runs else ()
            if missing := [pixel for pixel in range(size) if pixel not in inside]:
                self.add_outside(weight_row + tir.int32(columns.tap + tap * columns.tap_step), missing)

    def rows_outside(self) -> None:
        """What rows of taps above and below the image add."""
        rows, columns = self.phase.rows, self.phase.columns
        origin = tir.hold(self.place.row * tir.int32(rows.input_step) + tir.int32(rows.offset))
        low, high = taps_within(rows, origin, 0, rows.extent)
        low = tir.hold(tirx.Min(low, tir.int32(rows.taps)))
        for start, end in ((tir.int32(0), low), (tirx.Max(high, low), tir.int32(rows.taps))):
            with T.serial(end - start) as step, T.serial(columns.taps) as across:
                down = (start + step) * tir.int32(rows.tap_step) + tir.int32(rows.tap)
                tap = down * tir.int32(self.phase.kernel.kernel[1]) + tir.int32(columns.tap)
                tap = tir.hold(tap + across * tir.int32(columns.tap_step))
                self.add_outside(tap, list(range(self.phase.tiling.size)))

    def add_outside(self, tap: Expression, pixels: list[int]) -> None:
        """What one tap outside the image adds to some pixels."""
        images = self.phase.images
        for block, total in enumerate(self.totals):
            place = tap * tir.int32(self.phase.kernel.blocks) + self.block + tir.int32(block)
            value = tir.bind(tir.load(images.outside, [place * tir.int32(LANES)]))
            for pixel in pixels:
                tir.store(total, [pixel, 0], tir.load(total, [pixel, 0]) + value)

    def channels(
        self, row: Expression, column: Expression, weight: Expression, positions: tuple[int, ...]
    ) -> None:
        """All channels of one tap."""
        window = self.phase.images.window
        source = tir.hold(self.phase.images.at(row, column, self.channel))
        start = tir.hold(self.weights + weight * tir.int32(window * self.interleaved * LANES))
        enough = -(-BODY // (len(positions) * self.blocks))
        step = next(size for size in (4, 3, 2, 1) if window % size == 0 and size <= max(1, enough))
        with T.serial(window // step) as outer:
            for inner in range(step):
                channel = outer * tir.int32(step) + tir.int32(inner)
                self.multiply(source, start, channel, positions)

    def multiply(
        self, source: Expression, start: Expression, channel: Expression, positions: tuple[int, ...]
    ) -> None:
        """One channel of one tap."""
        images = self.phase.images
        at = start + channel * tir.int32(self.interleaved * LANES)
        weights = [
            tir.bind(tir.load(images.weight, [at + tir.int32(block * LANES)], lanes))
            for block, lanes in enumerate(self.lanes)
        ]
        source = source + channel * tir.int32(images.channel_step())
        step = self.phase.columns.input_step * images.column_step()
        for pixel in positions:
            value = tir.bind(images.input[source + tir.int32(pixel * step)])
            for total, weight, lanes in zip(self.totals, weights, self.lanes, strict=True):
                before = tir.load(total, [pixel, 0], lanes)
                tir.store(
                    total, [pixel, 0], images.multiplied(before, weight, tir.spread(value, lanes), lanes)
                )

    def finish(self) -> None:
        """Chain and store of all pixels."""
        images, rows, columns = self.phase.images, self.phase.rows, self.phase.columns
        row = self.place.row * tir.int32(rows.step) + tir.int32(rows.start)
        column = self.place.column * tir.int32(columns.step) + tir.int32(columns.start)
        first = self.place.image * tir.int32(images.pixels) + row * tir.int32(images.width) + column
        first = tir.hold(first)
        for block, total in enumerate(self.totals):
            channels = tir.hold(self.block + tir.int32(block))
            for pixel in range(self.phase.tiling.size):
                at = first + tir.int32(pixel * columns.step)
                value = widened(tir.bind(tir.load(total, [pixel, 0], self.lanes[block])), self.lanes[block])
                images.finish(self.place.image, at, channels, value)


def widened(value: Expression, lanes: int) -> Expression:
    """A vector with zeros up to 16 lanes."""
    if lanes == LANES:
        return value
    whole = tir.local((LANES,))
    tir.store(whole, [0], tir.zeros())
    tir.store(whole, [0], value)
    return tir.bind(tir.load(whole, [0]))
