"""Floating-point weights (float32, bfloat16) × a few float32 rows: batches and drafts.

A line of weights is widened once for all rows of a tile (at most 8), and the stream is prefetched, which the
kernel for prompts does without. The floor is the larger of the weight's bytes over the bandwidth and the
products over the float32 peak. The operations of an output are those of `FloatLinear`, in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.linear.floating import PREFETCH_BYTES
from intaglio.kernels.linear.layout import ROWS, FloatWeight
from intaglio.kernels.linear.row_tiles import PADDING, each_block
from intaglio.kernels.tir import Expression, KernelFrame


@dataclass(frozen=True)
class FloatFewVectors:
    """`result[row, outputs] = x Wᵀ` for `count` float32 rows.

    Pointers: weight, activation float32 `[rows, activation_stride]`, result float32 `[rows, result_stride]`.
    Buffers of rows hold `PADDING` rows more than `count`.
    """

    weight: FloatWeight
    epilogue: str  # one of `epilogue.PLAIN`, or of `epilogue.GATED` (gate and up interleaved)
    activation_stride: int
    result_stride: int
    result_offset: int = 0  # of output 0 in a row of results, a multiple of 16

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        element = "float32" if self.weight.dtype == "float32" else "uint32"
        return {"weight": element, "activation": "float32", "result": "float32"}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        each_block(self, frame, instructions, _Writer(self, frame).block)


class _Writer:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, kernel: FloatFewVectors, frame: KernelFrame) -> None:
        weight, rows = kernel.weight, frame.count + tir.int32(PADDING)
        self.pair = 2 if weight.dtype == "bfloat16" else 1
        self.steps = weight.padded_columns // self.pair
        self.weight = frame.buffer("weight", (weight.blocks, self.steps, ROWS), kernel.pointers["weight"])
        self.activation = frame.buffer("activation", (rows, kernel.activation_stride), "float32")

    def block(self, block: Expression, first: Expression, rows: int) -> list[Expression]:
        """Sixteen outputs of each row."""
        total = [tir.local((ROWS,)) for _ in range(rows)]
        for one in total:
            tir.store(one, [0], tir.zeros())
        with T.serial(self.steps) as step:
            packed = tir.bind(tir.load(self.weight, [block, step, 0]))
            tir.prefetch(self.weight, [block, step, PREFETCH_BYTES // 4])
            for column, values in enumerate(self.widen(packed)):
                for row, one in enumerate(total):
                    at = (first + tir.int32(row), step * tir.int32(self.pair) + tir.int32(column))
                    activation = tir.spread(tir.bind(self.activation[at]))
                    running = tir.fused_multiply_add(values, activation, tir.load(one, [0]))
                    tir.store(one, [0], running)
        return [tir.bind(tir.load(one, [0])) for one in total]

    def widen(self, packed: Expression) -> list[Expression]:
        """The packed columns as float32 vectors."""
        if self.pair == 1:
            return [packed]
        low = packed << tir.spread(tir.constant(16, "uint32"))
        high = packed & tir.spread(tir.constant(0xFFFF0000, "uint32"))
        return [tir.hold(tir.reinterpret(half, "float32x16")) for half in (low, high)]
