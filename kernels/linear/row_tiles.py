"""A few rows in tiles: what the kernels for batches and drafts have in common.

A block of 16 outputs after the other is multiplied with all rows, in tiles of a few sizes. Each size has code
of its own, so that two rows do not pay for eight; all rows together are exceeded by less than the smallest
size, for which buffers have room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.linear import quantized
from intaglio.kernels.linear.epilogue import GATED, finish
from intaglio.kernels.linear.layout import ROWS, FloatWeight, QuantizedWeight
from intaglio.kernels.tir import Expression, KernelFrame, tirx

PADDING = 8  # rows that buffers have room for beyond `count`
Block = Callable[[Expression, Expression, int], list[Expression]]  # (block, first row, rows) → 16 sums a row
Tile = Callable[[Expression, int], None]  # (first row, rows)


class FewKernel(Protocol):
    """What is asked of a kernel for a few rows."""

    @property
    def weight(self) -> QuantizedWeight | FloatWeight:
        """The weight's layout."""

    @property
    def epilogue(self) -> str:
        """What becomes of the sums."""

    @property
    def result_stride(self) -> int:
        """Floats between rows of the result."""

    @property
    def result_offset(self) -> int:
        """Of output 0 in a row of the result."""


def each_block(kernel: FewKernel, frame: KernelFrame, instructions: Instructions, block: Block) -> None:
    """Compute this worker's share of the outputs of all rows, and write them.

    Args:
        kernel: says what is computed; its pointer `result` is float32 `[rows, result_stride]`.
        frame: of the function being built; `count` rows are wanted.
        instructions: the family, for the sizes of tiles.
        block: the code for sixteen outputs of some rows.
    """
    result = frame.buffer("result", (frame.count + tir.int32(PADDING), kernel.result_stride), "float32")
    interleave, sizes = kernel.weight.interleave, tile_sizes(instructions)

    def unit(index: Expression) -> None:
        first_block = tir.bind(index * tir.int32(interleave))
        column = tir.bind(index * tir.int32(ROWS) + tir.int32(kernel.result_offset))

        def tile(first: Expression, rows: int) -> None:
            place = _Place(result, first, column)
            place.finish(kernel.epilogue, lambda part: block(tir.bind(first_block + part), first, rows))

        each_tile(frame.count, sizes, tile)

    frame.each_own(kernel.weight.blocks // interleave, unit)


def tile_sizes(instructions: Instructions) -> tuple[int, ...]:
    """Descending. The largest leaves registers for a float32 and two int32 sums of every row."""
    return (8, 4, 2) if instructions.wide else (2, 1)


def each_tile(count: Expression, sizes: Sequence[int], body: Tile) -> None:
    """Run `body(first row, rows)` until `count` rows are done, as many in the larger tiles as possible."""
    first = tir.int32(0)
    for size in sizes:
        # Rows that would need the smallest tile besides go with it: seven of two as one of eight.
        tiles = tir.hold(tirx.floordiv(count - first + tir.int32(sizes[-1] - 1), tir.int32(size)))
        start = first
        with T.serial(tiles) as tile:
            body(tir.bind(start + tile * tir.int32(size)), size)
        first = tir.bind(first + tiles * tir.int32(size))


class _Place:
    """Where sixteen outputs of each row of a tile go."""

    def __init__(self, result: Expression, first: Expression, column: Expression) -> None:
        self.result, self.first, self.column = result, first, column

    def finish(self, epilogue: str, sums: Callable[[Expression], list[Expression]]) -> None:
        """Write `sums(0)`, or with a gated epilogue `sums(0)` and `sums(1)` joined."""
        if epilogue not in GATED:
            for at, one in self._rows(sums(tir.int32(0))):
                finish(self.result, at, [one], epilogue)
            return
        # A loop, so that gate and up share their code; the gates wait where the results go.
        with T.serial(2) as part:
            found = self._rows(sums(part))
            with T.If(part.equal(tir.int32(0))):
                with T.Then():
                    for at, one in found:
                        tir.store(self.result, at, one)
                with T.Else():
                    for at, one in found:
                        finish(self.result, at, [tir.load(self.result, at), one], epilogue)

    def _rows(self, sums: list[Expression]) -> list[tuple[list[Expression], Expression]]:
        return [([self.first + tir.int32(row), self.column], one) for row, one in enumerate(sums)]


def group_vectors(
    streams: quantized.Streams, block: Expression, group: Expression
) -> tuple[Expression, Expression | None]:
    """Scales, and minima if there are any, of a block's outputs in one group; those ahead are prefetched."""
    found: list[Expression | None] = []
    for values in (streams.scales, streams.minima):
        if values is None:
            found.append(None)
            continue
        found.append(tir.hold(quantized.group_vector(values, block, group)))
        tir.prefetch(values, [block, group, 16 * ROWS])
    return found[0], found[1]
