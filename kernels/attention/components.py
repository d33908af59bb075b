"""A head's components in registers or on the stack."""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.attention.heads import Heads
from intaglio.kernels.tir import LANES, Expression


class Components:
    """One float32 per component, in buffers of under 1 KiB; `size`: if not a head's."""

    def __init__(self, heads: Heads, size: int = 0) -> None:
        self.lanes, self.size = heads.lanes, size or heads.head_dim
        self.part = self.size if self.size < 256 else 128  # floats of a buffer
        self.parts = [tir.local((self.part,)) for _ in range(0, self.size, self.part)]

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """The index of each buffer and its number of components."""
        return [(index, min(self.part, self.size - index * self.part)) for index in range(len(self.parts))]

    def load(self, first: int) -> Expression:
        """The vector of `heads.lanes` components from `first` on."""
        return tir.load(self.parts[first // self.part], [first % self.part], self.lanes)

    def store(self, first: int, vector: Expression) -> None:
        """Write a vector, `first` being a multiple of its lanes."""
        tir.store(self.parts[first // self.part], [first % self.part], vector)

    def clear(self) -> None:
        """Set all to zero."""
        for buffer, (_, length) in zip(self.parts, self.lengths, strict=True):
            lanes = math.gcd(LANES, length)
            for first in range(0, length, lanes):
                tir.store(buffer, [first], tir.zeros(lanes))

    def keep_in_memory(self) -> None:
        """Have the buffers in memory here, between loops that need the registers.

        LLVM would carry them in registers through those loops, and spill there what the loops work on. A
        prefetch, which hardly costs anything, may write to memory as far as LLVM knows.
        """
        for buffer in self.parts:
            tir.prefetch(buffer, [0])

    def each(self, body: Callable[[Expression, Expression], None]) -> None:
        """Run `body(component, value)` for all, in loops."""
        for index, length in self.lengths:
            with T.serial(length) as inner:
                body(inner + tir.int32(index * self.part), self.parts[index][inner])
