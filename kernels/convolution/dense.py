"""Dense and grouped convolutions: tiles of outputs × channels in registers, an implicit matrix product.

1. a tile is some neighbouring pixels of a row times up to five blocks of 16 channels; each weight vector is
   loaded once for all pixels of the tile, each input once for all blocks;
2. tiles at the ends of a row, some of whose taps read outside, have code of their own that leaves these out;
3. a pointwise convolution takes all pixels for one row;
4. a unit of work is some rows of pixels times one group of blocks, so that the input stays in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.convolution.convolution import LANES
from intaglio.kernels.convolution.geometry import Axis, Run, Tiles, Tiling, tiling
from intaglio.kernels.convolution.images import Images, each_tap, taps_within
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import Expression, KernelFrame, tirx

CHUNK_BYTES = 128 * 1024  # of input that stays in the second-level cache while all weights pass by
UNITS = 16  # at least, so that workers have equal shares
BODY = 16  # multiply-adds in a loop's body that make its own instructions cheap
MOST_PIXELS = 14  # of a tile: a local buffer stays below 1 KiB


def emit_dense(images: Images, frame: KernelFrame, instructions: Instructions) -> None:
    """Write the code of a convolution of `images`, phase by phase."""
    for rows in images.kernel.axes(0):
        for columns in images.kernel.axes(1):
            _Phase(images, frame, instructions, rows, columns).emit()


def tile_pixels(blocks: int, instructions: Instructions) -> int:
    """Pixels of a tile: with the weights and an input, as many as there are registers for."""
    return min(MOST_PIXELS, (instructions.registers - 1 - blocks) // blocks)


@dataclass(frozen=True)
class _Place:
    """A tile: pixels `column …` of row `row`, which counts through all images, as does `image`."""

    image: Expression
    row: Expression
    column: Expression


class _Phase:
    """The outputs of one phase of both axes."""

    def __init__(
        self, images: Images, frame: KernelFrame, instructions: Instructions, rows: Axis, columns: Axis
    ) -> None:
        self.images, self.frame, self.kernel = images, frame, images.kernel
        self.rows, self.columns = rows, columns
        together = self.kernel.together
        self.apart = tile_pixels(together, instructions) < 3  # too few registers: block by block
        most = tile_pixels(1 if self.apart else together, instructions)
        pixels = self.kernel.batch * images.pixels
        self.columns = Axis(pixels, pixels, 0, 1, 1, 1, 0, 1, 0, 1) if self.kernel.flat else columns
        self.tiling = flat_tiling(pixels, most) if self.kernel.flat else tiling(columns, most)

    def emit(self) -> None:
        """All units of work."""
        kernel = self.kernel
        lines = self.tiling.tiles if kernel.flat else self.rows.count
        groups = -(-kernel.blocks // kernel.together)
        chunk = self.lines_of_a_chunk(lines, groups)
        chunks = -(-lines // chunk)
        images = 1 if kernel.flat else kernel.batch

        def unit(index: Expression) -> None:
            group = tir.hold(tirx.floormod(index, tir.int32(groups)))
            rest = tir.bind(tirx.floordiv(index, tir.int32(groups)))
            first = tir.hold(tirx.floormod(rest, tir.int32(chunks)) * tir.int32(chunk))
            image = tir.hold(tirx.floordiv(rest, tir.int32(chunks)))
            with T.serial(tirx.Min(tir.int32(chunk), tir.int32(lines) - first)) as line:
                self.line(image, tir.bind(first + line), group)

        self.frame.each_own(images * chunks * groups, unit)

    def lines_of_a_chunk(self, lines: int, groups: int) -> int:
        """Rows (flat: tiles) whose input stays in the cache, but few enough to give every worker some."""
        pixels = self.tiling.size if self.kernel.flat else self.kernel.size[1] * self.rows.input_step
        fit = CHUNK_BYTES * self.images.channels // (4 * self.kernel.pixel * pixels)
        shared = lines * groups // UNITS
        return max(1, min(lines, fit, shared))

    def line(self, image: Expression, line: Expression, group: Expression) -> None:
        """One row (flat: one tile) of one group of blocks; the last group may have fewer blocks."""
        whole, rest = divmod(self.kernel.blocks, self.kernel.together)
        if not rest:
            self.tiles(image, line, group, self.kernel.together)
            return
        with T.If(group < tir.int32(whole)):
            with T.Then():
                self.tiles(image, line, group, self.kernel.together)
            with T.Else():
                self.tiles(image, line, group, rest)

    def tiles(self, image: Expression, line: Expression, group: Expression, blocks: int) -> None:
        """All tiles of a line."""
        end = tir.int32(self.columns.count - self.tiling.size)
        if self.kernel.flat:
            column = tir.hold(tirx.Min(line * tir.int32(self.tiling.size), end))
            self.tile(_Place(image, tir.int32(0), column), group, blocks, self.tiling.groups[0])
            return
        for alike in self.tiling.groups:
            with T.serial(alike.tiles) as index:
                start = (index + tir.int32(alike.first)) * tir.int32(self.tiling.size)
                column = tir.hold(tirx.Min(start, end))
                self.tile(_Place(image, line, column), group, blocks, alike)

    def tile(self, place: _Place, group: Expression, blocks: int, alike: Tiles) -> None:
        """One tile, all blocks at once or one after the other."""
        whole, rest = divmod(self.kernel.blocks, self.kernel.together)
        last = blocks == rest or whole + (rest > 0) == 1  # known to be the last group
        half = self.images.halves and last and 0 < self.kernel.outputs % LANES <= LANES // 2
        if not self.apart or (half and blocks == 1):
            _Tile(self, place, group, blocks, tir.int32(0), blocks, alike.runs, half).emit()
            return
        with T.serial(blocks) as block:
            _Tile(self, place, group, blocks, block, 1, alike.runs).emit()


def flat_tiling(pixels: int, most: int) -> Tiling:
    """All pixels in tiles that are alike."""
    tiles = -(-pixels // most)
    size = -(-pixels // tiles)
    return Tiling(size, tiles, (Tiles(0, tiles, (Run(0, 1, tuple(range(size))),)),))


@dataclass
class _Tile:
    """The code of one tile."""

    phase: _Phase
    place: _Place
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
