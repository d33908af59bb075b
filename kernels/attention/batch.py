"""Attention of one token for each of several sequences, each over a cache of its own.

1. a unit is one key head of one sequence: it caches the token's key and value, and attends with all query
   heads that share them, so that nothing has to be waited for in between;
2. units are dealt to the workers in turn: sequences may differ in length;
3. which cache a row has, and at which position it stands, are data: sequences may end, and others take their
   places, without new code.

The products are those of `DecodeAttention`, over all positions at once rather than a worker's share of them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.attention.decode import MOST_HEADS
from intaglio.kernels.attention.heads import BLOCK, Heads
from intaglio.kernels.attention.operands import stored_arithmetic
from intaglio.kernels.attention.preparation import Preparation
from intaglio.kernels.attention.products import Products, QueryState
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import LANES, Expression, KernelFrame, tirx


@dataclass(frozen=True)
class BatchAttention:
    """Prepare, cache and attend for `count` tokens of as many sequences.

    Pointers: projection float32 `[count, stride]`; `Heads.cache_pointers`, the cache being that of slot 0,
    and those of the next slots after it; positions and slots int32 `[count]`, no slot twice; result float32
    `[count, result_stride]`.
    """

    heads: Heads
    result_stride: int

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        rows = {"positions": "int32", "slots": "int32"}
        return {"projection": "float32", **self.heads.cache_pointers, **rows, "result": "float32"}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        positions, slots = (frame.buffer(name, (frame.count,), "int32") for name in ("positions", "slots"))
        result = frame.buffer("result", (frame.count, self.result_stride), "float32")

        def unit(index: Expression) -> None:
            row = tir.bind(tirx.floordiv(index, tir.int32(self.heads.kv_heads)))
            kv_head = tir.bind(tirx.floormod(index, tir.int32(self.heads.kv_heads)))
            place = self._at_slot(frame, slots[row], tir.bind(positions[row]))
            writer = _Writer(self.heads, place, instructions, result, row)
            writer.preparation.append(row, kv_head, place.position)
            for first in range(0, self.heads.repeat, MOST_HEADS):
                writer.attend(kv_head, first, min(MOST_HEADS, self.heads.repeat - first))

        frame.each_dealt(tir.bind(frame.count * tir.int32(self.heads.kv_heads)), unit)
        self._clear_padding(frame, result)

    def _at_slot(self, frame: KernelFrame, slot: Expression, position: Expression) -> KernelFrame:
        """The frame of one sequence, whose cache has an address of its own."""
        slot = tir.bind(slot.astype("int64"))
        sizes, types = self.heads.cache_bytes, self.heads.storage_pointers
        moved = {
            name: _moved(frame, name, types[name], slot * tir.constant(sizes[name], "int64"))
            for name in types
        }
        return dataclasses.replace(frame, position=position, pointers={**frame.pointers, **moved})

    def _clear_padding(self, frame: KernelFrame, result: Expression) -> None:
        """Zero what lies between the heads and the stride: linear layers rely on it."""

        def clear(row: Expression) -> None:
            for column in range(self.heads.heads * self.heads.head_dim, self.result_stride):
                tir.store(result, [row, column], tir.float32(0.0))

        frame.each_own(frame.count, clear)


def _moved(frame: KernelFrame, name: str, dtype: str, distance: Expression) -> Expression:
    """Pointer `name` and `distance` bytes more, in 64 bits: indices of buffers have 32."""
    bytes_of = frame.buffer(name, (tir.constant(1 << 62, "int64"),), "uint8")
    return tir.bind(tirx.reinterpret(tir.pointer_type(dtype), tirx.address_of(bytes_of[distance])))


class _Writer:
    """Views of one sequence's buffers, and the code over them."""

    def __init__(
        self,
        heads: Heads,
        frame: KernelFrame,
        instructions: Instructions,
        result: Expression,
        row: Expression,
    ) -> None:
        self.heads, self.position, self.row, self.result = heads, frame.position, row, result
        self.wide = instructions.wide
        self.preparation = Preparation(heads, frame)
        self.arithmetic = stored_arithmetic(heads, instructions)
        sums = instructions.registers // 2
        self.products = Products(self.preparation, frame.position, sums, self.arithmetic)
        self.start = tirx.floordiv(self.products.first_position, tir.int32(LANES))
        self.blocks = tirx.floordiv(frame.position + tir.int32(LANES), tir.int32(LANES)) - self.start

    def attend(self, kv_head: Expression, first: int, width: int) -> None:
        """`width` query heads of one key head, over all blocks in sight."""
        head = tir.bind(kv_head * tir.int32(self.heads.repeat) + tir.int32(first))
        together = BLOCK // LANES if width > 1 and self.wide else 1
        state = [QueryState(self.heads, together * LANES, self.arithmetic) for _ in range(width)]
        for index, one in enumerate(state):
            one.clear()
            self.preparation.query(self.row, head + tir.int32(index), self.position, one.keep_query)
            one.pack_query(self.arithmetic)
        count = tir.bind(self.blocks)
        steps = tirx.floordiv(count + tir.int32(together - 1), tir.int32(together))
        with T.serial(steps) as step:
            done = tir.bind(step * tir.int32(together))
            block = tir.bind(self.start + done)
            blocks = tir.bind(tirx.Min(tir.int32(together), count - done))
            self.products.scores(state, kv_head, block, blocks)
            for one in state:
                one.softmax.update()
            self.products.accumulate(state, kv_head, tir.bind(block * tir.int32(LANES)), blocks)
        for index, one in enumerate(state):
            self._write(head + tir.int32(index), one)

    def _write(self, head: Expression, state: QueryState) -> None:
        """One head's output."""
        lanes = self.heads.lanes
        inverse = tir.bind(tir.float32(1.0) / state.softmax.sum())
        for first in range(0, self.heads.head_dim, lanes):
            at = [self.row, head * tir.int32(self.heads.head_dim) + tir.int32(first)]
            tir.store(self.result, at, state.output.load(first) * tir.spread(inverse, lanes))
