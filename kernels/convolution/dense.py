"""Dense and grouped convolutions: tiles of outputs × channels in registers, an implicit matrix product.

1. a tile is some neighbouring pixels of a row times up to five blocks of 16 channels; each weight vector is
   loaded once for all pixels of the tile, each input once for all blocks;
2. tiles at the ends of a row, some of whose taps read outside, have code of their own that leaves these out;
3. a pointwise convolution takes all pixels for one row;
4. a unit of work is some rows of pixels times one group of blocks, so that the input stays in the cache.
"""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.convolution.convolution import LANES
from intaglio.kernels.convolution.geometry import Axis, Run, Tiles, Tiling, tiling
from intaglio.kernels.convolution.images import Images
from intaglio.kernels.convolution.tiles import Phase, Place, Tile
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import Expression, KernelFrame, tirx

CHUNK_BYTES = 128 * 1024  # of input that stays in the second-level cache while all weights pass by
UNITS = 16  # at least, so that workers have equal shares
MOST_PIXELS = 14  # of a tile: a local buffer stays below 1 KiB


def emit_dense(images: Images, frame: KernelFrame, instructions: Instructions) -> None:
    """Write the code of a convolution of `images`, phase by phase."""
    for rows in images.kernel.axes(0):
        for columns in images.kernel.axes(1):
            _Writer(images, frame, instructions, rows, columns).emit()


def tile_pixels(blocks: int, instructions: Instructions) -> int:
    """Pixels of a tile: with the weights and an input, as many as there are registers for."""
    return min(MOST_PIXELS, (instructions.registers - 1 - blocks) // blocks)


class _Writer:
    """The outputs of one phase of both axes."""

    def __init__(
        self, images: Images, frame: KernelFrame, instructions: Instructions, rows: Axis, columns: Axis
    ) -> None:
        self.images, self.frame, self.kernel = images, frame, images.kernel
        self.rows = rows
        together = self.kernel.together
        self.apart = tile_pixels(together, instructions) < 3  # too few registers: block by block
        most = tile_pixels(1 if self.apart else together, instructions)
        pixels = self.kernel.batch * images.pixels
        self.columns = Axis(pixels, pixels, 0, 1, 1, 1, 0, 1, 0, 1) if self.kernel.flat else columns
        self.tiling = flat_tiling(pixels, most) if self.kernel.flat else tiling(columns, most)
        self.phase = Phase(images, self.rows, self.columns, self.tiling)

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
            self.tile(Place(image, tir.int32(0), column), group, blocks, self.tiling.groups[0])
            return
        for alike in self.tiling.groups:
            with T.serial(alike.tiles) as index:
                start = (index + tir.int32(alike.first)) * tir.int32(self.tiling.size)
                column = tir.hold(tirx.Min(start, end))
                self.tile(Place(image, line, column), group, blocks, alike)

    def tile(self, place: Place, group: Expression, blocks: int, alike: Tiles) -> None:
        """One tile, all blocks at once or one after the other."""
        whole, rest = divmod(self.kernel.blocks, self.kernel.together)
        last = blocks == rest or whole + (rest > 0) == 1  # known to be the last group
        half = self.images.halves and last and 0 < self.kernel.outputs % LANES <= LANES // 2
        if not self.apart or (half and blocks == 1):
            Tile(self.phase, place, group, blocks, tir.int32(0), blocks, alike.runs, half).emit()
            return
        with T.serial(blocks) as block:
            Tile(self.phase, place, group, blocks, block, 1, alike.runs).emit()


def flat_tiling(pixels: int, most: int) -> Tiling:
    """All pixels in tiles that are alike."""
    tiles = -(-pixels // most)
    size = -(-pixels // tiles)
    return Tiling(size, tiles, (Tiles(0, tiles, (Run(0, 1, tuple(range(size))),)),))
