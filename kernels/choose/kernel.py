"""The largest logit of every block, found while the logits are still in the workers' caches."""

from __future__ import annotations

from dataclasses import dataclass

from intaglio.kernels import tir
from intaglio.kernels.choose.selection import BLOCK
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import LANES, Expression, KernelFrame, tirx


@dataclass(frozen=True)
class BlockMaxima:
    """`maxima[row, b] = max(logits[row, 64 b : 64 b + 64])`, infinite where there is a NaN among them.

    Pointers: logits `[count, stride]`, of which `columns` count; maxima `[count, blocks rounded up to 16]`.
    """

    columns: int
    stride: int

    @property
    def blocks(self) -> int:
        """Maxima of a row."""
        return -(-self.columns // BLOCK)

    @property
    def padded(self) -> int:
        """Floats from row to row of the maxima."""
        return -(-self.blocks // LANES) * LANES

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        return {"logits": "float32", "maxima": "float32"}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        del instructions  # bound by reading
        logits = frame.buffer("logits", (frame.count, self.stride), "float32")
        maxima = frame.buffer("maxima", (frame.count, self.padded), "float32")

        def one(unit: Expression) -> None:
            row = tir.bind(tirx.floordiv(unit, self.blocks))
            block = tir.bind(tirx.floormod(unit, self.blocks))
            tir.store(maxima, [row, block], self.largest(logits, row, block))

        frame.each_own(frame.count * tir.int32(self.blocks), one)

    def largest(self, logits: Expression, row: Expression, block: Expression) -> Expression:
        """The maximum of one block."""
        running = tir.local((LANES,))
        tir.store(running, [0], tir.spread(tir.float32(float("-inf"))))
        for part in range(BLOCK // LANES):
            at = tir.bind(block * tir.int32(BLOCK) + tir.int32(part * LANES))
            value = tir.hold(self.vector(logits, row, at))
            tir.store(running, [0], tirx.Max(tir.load(running, [0]), infinite_if_nan(value)))
        return max_tree(tir.bind(tir.load(running, [0])))

    def vector(self, logits: Expression, row: Expression, at: Expression) -> Expression:
        """Sixteen logits from column `at` on, -inf beyond the last."""
        if self.columns % BLOCK == 0:
            return tir.bind(tir.load(logits, [row, at]))
        # The last vector again, instead of reading past the row.
        at = tir.bind(tirx.Min(at, tir.int32(self.stride - LANES)))
        inside = tirx.Ramp(at, tir.int32(1), LANES) < tir.spread(tir.int32(self.columns))
        return tirx.Select(inside, tir.load(logits, [row, at]), tir.spread(tir.float32(float("-inf"))))


def infinite_if_nan(value: Expression) -> Expression:
    """`value`, and infinity for what is no number; by its bits, since TVM takes `x != x` for false."""
    bits = tir.reinterpret(value, "int32x16") & tir.spread(tir.int32(0x7FFFFFFF))
    return tirx.Select(bits > tir.spread(tir.int32(0x7F800000)), tir.spread(tir.float32(float("inf"))), value)


def max_tree(vector: Expression) -> Expression:
    """The largest of 16 lanes without a NaN, halves first."""
    lanes = LANES // 2
    while lanes:
        low, high = (
            tirx.Shuffle([vector], [tir.int32(first + lane) for lane in range(lanes)]) for first in (0, lanes)
        )
        vector = tir.hold(tirx.Max(low, high))
        lanes //= 2
    return vector
