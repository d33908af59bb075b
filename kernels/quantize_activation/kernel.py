"""int8 codes, scales and sums of codes for groups of columns."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import LANES, Expression, KernelFrame, tirx


@dataclass(frozen=True)
class QuantizeActivation:
    """`codes = round(x · 127 / max|x|)` per group, halves to even; a group of zeros has scale 0.

    `rows` says whose rows: "all" shares `count` rows among the workers; "own" has a row per worker on both
    sides; "shared" reads row 0 and gives every worker its own copy, which spares a barrier. Pointers: x
    `[rows, stride]`, codes int8 `[rows, columns]`, scales float32 and sums int32 `[rows, columns / group]`.
    """

    columns: int
    group: int
    stride: int
    rows: str

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        return {"x": "float32", "codes": "int8", "scales": "float32", "sums": "int32"}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        del instructions  # nothing here that LLVM does not do as well
        writer = _Writer(self, frame)
        if self.rows == "all":
            frame.each_own(frame.count, lambda row: writer.row(row, row))
        else:
            writer.row(tir.int32(0) if self.rows == "shared" else frame.worker, frame.worker)


class _Writer:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, kernel: QuantizeActivation, frame: KernelFrame) -> None:
        rows = frame.count if kernel.rows == "all" else frame.workers
        groups = kernel.columns // kernel.group
        self.kernel = kernel
        self.lanes = math.gcd(LANES, kernel.group)
        self.x = frame.buffer("x", (rows, kernel.stride), "float32")
        self.codes = frame.buffer("codes", (rows, kernel.columns), "int8")
        self.scales = frame.buffer("scales", (rows, groups), "float32")
        self.sums = frame.buffer("sums", (rows, groups), "int32")

    def row(self, source: Expression, to: Expression) -> None:
        """Quantise row `source` of x into row `to`."""
        with T.serial(self.kernel.columns // self.kernel.group) as group:
            self.quantize_group(source, to, group)

    def quantize_group(self, source: Expression, to: Expression, group: Expression) -> None:
        """One scale's worth of columns."""
        first = tir.bind(group * tir.int32(self.kernel.group))
        largest = self.largest(source, first)
        inverse = tir.hold(
            tirx.Select(largest > tir.float32(0.0), tir.float32(127.0) / largest, tir.float32(0.0))
        )
        total = tir.local((self.lanes,), "int32")
        tir.store(total, [0], tirx.Broadcast(tir.int32(0), self.lanes))
        with T.serial(self.kernel.group // self.lanes) as vector:
            at = first + vector * tir.int32(self.lanes)
            scaled = tir.load(self.x, [source, at], self.lanes) * tir.spread(inverse, self.lanes)
            code = tir.bind(tir.round_even(scaled, self.lanes).astype(f"int32x{self.lanes}"))
            tir.store(self.codes, [to, at], code.astype(f"int8x{self.lanes}"))
            tir.store(total, [0], tir.load(total, [0], self.lanes) + code)
        tir.store(self.scales, [to, group], largest * tir.float32(1.0 / 127.0))
        tir.store(self.sums, [to, group], tir.sum_integer_lanes(tir.load(total, [0], self.lanes)))

    def largest(self, source: Expression, first: Expression) -> Expression:
        """max|x| over a group."""
        running = tir.local((self.lanes,))
        tir.store(running, [0], tir.zeros(self.lanes))
        with T.serial(self.kernel.group // self.lanes) as vector:
            at = first + vector * tir.int32(self.lanes)
            size = tir.absolute(tir.load(self.x, [source, at], self.lanes), self.lanes)
            tir.store(running, [0], tirx.Max(tir.load(running, [0], self.lanes), size))
        return tir.max_tree(tir.load(running, [0], self.lanes), self.lanes)
