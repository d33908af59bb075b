"""Attention of many tokens: causal flash attention (Dao et al. 2022; loops as Dao 2023), no N × N buffer.

1. a tile of queries goes over blocks of 64 positions with an online softmax, none above the diagonal;
2. scores and outputs are register-tiled products: a vector of 16 positions (or components) times scalars;
3. tiles of one head are dealt to the workers in turn, which balances the triangle.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.attention.components import Components
from intaglio.kernels.attention.heads import BLOCK, Heads
from intaglio.kernels.attention.packed_storage import storage_of
from intaglio.kernels.attention.scores import first_visible, masked, out_of_sight
from intaglio.kernels.attention.softmax import OnlineSoftmax
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import LANES, Expression, KernelFrame, tirx


@dataclass(frozen=True)
class PrefillAttention:
    """Attend for `count` tokens from `position` on: queries are rotated and scaled, keys and values cached.

    Pointers: projection float32 `[count, heads.stride]`, `Heads.storage_pointers`, result float32
    `[count, stride]`.
    """

    heads: Heads
    stride: int

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        return {"projection": "float32", **self.heads.storage_pointers, "result": "float32"}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        rows = 8 if instructions.wide else 2
        writer = _Writer(self, frame, rows, instructions.registers)
        tiles = tir.bind(tirx.floordiv(frame.count + tir.int32(rows - 1), tir.int32(rows)))
        frame.each_dealt(tiles * tir.int32(self.heads.heads), lambda unit: writer.unit(unit, tiles))


class _Writer:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, kernel: PrefillAttention, frame: KernelFrame, rows: int, registers: int) -> None:
        heads = kernel.heads
        self.kernel, self.heads, self.frame, self.rows = kernel, heads, frame, rows
        self.registers = registers
        tokens = frame.count + tir.int32(8)
        self.projection = frame.buffer("projection", (tokens, heads.stride), "float32")
        self.storage = storage_of(heads, frame)
        self.keys, self.values = self.storage.keys, self.storage.values
        self.result = frame.buffer("result", (tokens, kernel.stride), "float32")
        self.softmax = [OnlineSoftmax(BLOCK, LANES if registers > LANES else 1) for _ in range(rows)]
        self.output = [Components(heads) for _ in range(rows)]

    def unit(self, unit: Expression, tiles: Expression) -> None:
        """One tile of queries of one head."""
        head = tir.bind(tirx.floordiv(unit, tiles))
        row = tir.bind(tirx.floormod(unit, tiles) * tir.int32(self.rows))
        kv_head = tir.bind(tirx.floordiv(head, tir.int32(self.heads.repeat)))
        self.clear()
        last = self.frame.position + tirx.Min(row + tir.int32(self.rows), self.frame.count) - tir.int32(1)
        last = tir.bind(last)
        visible = tir.bind(first_visible(self.heads, self.frame.position + row))
        start = tirx.floordiv(visible, tir.int32(BLOCK))
        with T.serial(tirx.floordiv(last, tir.int32(BLOCK)) + tir.int32(1) - start) as step:
            first = tir.bind((start + step) * tir.int32(BLOCK))
            for pair in range(0, BLOCK // LANES, 2):
                self.scores(head, kv_head, row, first, pair)
            for softmax in self.softmax:
                softmax.update()
            skipped = tir.bind(out_of_sight(self.heads, visible, first))
            end = tirx.Min(tir.int32(BLOCK), last + tir.int32(1) - first)
            self.accumulate(kv_head, first, skipped, tir.bind(end - skipped))
        self.write(head, row)

    def clear(self) -> None:
        """Start a tile."""
        for row in range(self.rows):
            self.softmax[row].clear()
            self.output[row].clear()

    def scores(
        self, head: Expression, kv_head: Expression, row: Expression, first: Expression, pair: int
    ) -> None:
        """Scores of the tile against 32 positions, masked, into `weights`."""
        sums = [tir.local((2, LANES)) for _ in range(self.rows)]
        for index in range(self.rows):
            for part in range(2):
                tir.store(sums[index], [part, 0], tir.zeros())
        block = tir.bind(tirx.floordiv(first, tir.int32(LANES)) + tir.int32(pair))
        with T.serial(self.heads.head_dim) as component:
            keys = [
                tir.bind(tir.load(self.keys, [kv_head, block + tir.int32(part), component, 0]))
                for part in range(2)
            ]
            for index in range(self.rows):
                at = [row + tir.int32(index), head * tir.int32(self.heads.head_dim) + component]
                query = tir.spread(tir.bind(self.projection[tuple(at)]))
                for part in range(2):
                    running = tir.load(sums[index], [part, 0])
                    tir.store(sums[index], [part, 0], tir.fused_multiply_add(keys[part], query, running))
        for part in range(2):
            base = first + tir.int32((pair + part) * LANES)
            for index in range(self.rows):
                own = self.frame.position + row + tir.int32(index)
                score = masked(self.heads, tir.load(sums[index], [part, 0]), base, own)
                tir.store(self.softmax[index].weights, [(pair + part) * LANES], score)

    def accumulate(
        self, kv_head: Expression, first: Expression, skipped: Expression, positions: Expression
    ) -> None:
        """Shrink the output and add the block's weighted values; rows that no query sees are never read."""
        lanes = self.heads.lanes
        for pair in range(0, self.heads.vectors, 2):
            if self.rows * self.heads.vectors > self.registers:
                for output in self.output:
                    output.keep_in_memory()
            parts = range(pair, min(pair + 2, self.heads.vectors))
            sums = [tir.local((2, lanes)) for _ in range(self.rows)]
            for row in range(self.rows):
                for slot, vector in enumerate(parts):
                    value = self.output[row].load(vector * lanes)
                    tir.store(sums[row], [slot, 0], value * tir.spread(self.softmax[row].shrink[0], lanes))
            with T.serial(positions) as step:
                position = skipped + step
                at = [kv_head, first + position]
                values = [tir.bind(tir.load(self.values, [*at, vector * lanes], lanes)) for vector in parts]
                for row in range(self.rows):
                    weight = tir.spread(tir.bind(self.softmax[row].weights[position]), lanes)
                    for slot, value in enumerate(values):
                        running = tir.load(sums[row], [slot, 0], lanes)
                        tir.store(sums[row], [slot, 0], tir.fused_multiply_add(value, weight, running, lanes))
            for row in range(self.rows):
                for slot, vector in enumerate(parts):
                    self.output[row].store(vector * lanes, tir.load(sums[row], [slot, 0], lanes))

    def write(self, head: Expression, row: Expression) -> None:
        """Normalise the tile into the result; rows beyond the last token land in its padding."""
        lanes = self.heads.lanes
        for index in range(self.rows):
            inverse = tir.bind(tir.float32(1.0) / self.softmax[index].sum())
            for vector in range(self.heads.vectors):
                column = head * tir.int32(self.heads.head_dim) + tir.int32(vector * lanes)
                value = self.output[index].load(vector * lanes) * tir.spread(inverse, lanes)
                tir.store(self.result, [row + tir.int32(index), column], value)
