"""The second step of decoding: the parts of attention that the workers computed, joined (flash decoding)."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.attention.components import Components
from intaglio.kernels.attention.heads import Heads
from intaglio.kernels.attention.scores import LOWEST
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import Expression, KernelFrame, tirx


@dataclass(frozen=True)
class CombineAttention:
    """Join the workers' parts; every worker writes its own copy, which spares a barrier.

    Pointers: partial, statistics as `DecodeAttention` leaves them; result float32 `[workers, stride]`.
    """

    heads: Heads
    stride: int

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        return {"partial": "float32", "statistics": "float32", "result": "float32"}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        del instructions  # a few hundred additions
        heads = self.heads
        partial = frame.buffer("partial", (frame.workers, heads.heads, heads.head_dim), "float32")
        statistics = frame.buffer("statistics", (frame.workers, heads.heads, 2), "float32")
        result = frame.buffer("result", (frame.workers, self.stride), "float32")
        with T.serial(heads.heads) as head:
            self.head(frame, head, partial, statistics, result)
        for column in range(heads.heads * heads.head_dim, self.stride):
            tir.store(result, [frame.worker, column], tir.float32(0.0))

    def head(
        self,
        frame: KernelFrame,
        head: Expression,
        partial: Expression,
        statistics: Expression,
        result: Expression,
    ) -> None:
        """One query head."""
        heads = self.heads
        peak, total = tir.local((1,)), tir.local((1,))
        tir.store(peak, [0], tir.float32(LOWEST))
        tir.store(total, [0], tir.float32(0.0))
        with T.serial(frame.workers) as worker:
            tir.store(peak, [0], tirx.Max(peak[0], statistics[worker, head, 0]))
        output = Components(heads)
        output.clear()
        with T.serial(frame.workers) as worker:
            shrink = tir.bind(tir.exponential(statistics[worker, head, 0] - peak[0], 1))
            tir.store(total, [0], total[0] + statistics[worker, head, 1] * shrink)
            for first in range(0, heads.head_dim, heads.lanes):
                part = tir.load(partial, [worker, head, first], heads.lanes)
                output.store(first, output.load(first) + part * tir.spread(shrink, heads.lanes))
        inverse = tir.bind(tir.float32(1.0) / total[0])
        for first in range(0, heads.head_dim, heads.lanes):
            at = [frame.worker, head * tir.int32(heads.head_dim) + tir.int32(first)]
            tir.store(result, at, output.load(first) * tir.spread(inverse, heads.lanes))
