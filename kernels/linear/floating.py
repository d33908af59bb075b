"""Floating-point weights (float32, bfloat16) × float32 activations, one token or many.

Sixteen rows share a vector, so each column costs one multiply-add with the activation in every lane and no
horizontal sums. bfloat16 pairs are widened by a shift and a mask; activations are not rounded.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.instructions import ByteTiles, Instructions
from intaglio.kernels.linear.epilogue import finish
from intaglio.kernels.linear.layout import ROWS, FloatWeight
from intaglio.kernels.linear.quantized import each_panel
from intaglio.kernels.linear.tiles.amx_floats import AmxFloatWriter
from intaglio.kernels.tir import Expression, KernelFrame, tirx

PREFETCH_BYTES = 4096
TOKENS = 6  # per tile of the matrix-matrix kernel, at most `PADDING`
PADDING = 8  # tokens that buffers have room for beyond `count`: the last tile is computed whole


@dataclass(frozen=True)
class FloatLinear:
    """`result[token, rows] = x Wᵀ` for `count` tokens ("all"), or for one.

    `tokens` says where that one is: "own", each worker has its copy in its row of activation; "shared", it is
    row 0. Pointers: weight, activation float32 `[tokens, activation_stride]`,
    result float32 `[tokens, result_stride]`.
    """

    weight: FloatWeight
    epilogue: str  # one of `epilogue.PLAIN`, or of `epilogue.GATED` (gate and up interleaved)
    activation_stride: int
    result_stride: int
    tokens: str  # "all", "own" or "shared"
    result_offset: int = 0  # of row 0 in a token's results, a multiple of 16

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        element = "float32" if self.weight.dtype == "float32" else "uint32"
        return {"weight": element, "activation": "float32", "result": "float32"}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        tiles = instructions.byte_tiles is ByteTiles.AMX  # which has tiles of bfloat16 as well
        if tiles and self.tokens == "all" and self.weight.dtype == "bfloat16":
            each_panel(frame, self.weight, AmxFloatWriter(self, frame).panel)
            return
        # Elsewhere LLVM vectorises multiply-adds equally well for every family.
        writer = _Writer(self, frame)
        frame.each_own(self.weight.blocks // self.weight.interleave, writer.unit)


class _Writer:
    """Views of one call's buffers, and the code over them."""

    def __init__(self, kernel: FloatLinear, frame: KernelFrame) -> None:
        self.kernel, self.frame = kernel, frame
        weight = kernel.weight
        self.pair = 2 if weight.dtype == "bfloat16" else 1
        steps = weight.padded_columns // self.pair
        self.tile = TOKENS if kernel.tokens == "all" else 1
        tokens = frame.count + tir.int32(PADDING) if kernel.tokens == "all" else frame.workers
        self.weight = frame.buffer("weight", (weight.blocks, steps, ROWS), kernel.pointers["weight"])
        self.activation = frame.buffer("activation", (tokens, kernel.activation_stride), "float32")
        self.result = frame.buffer("result", (tokens, kernel.result_stride), "float32")
        self.steps = steps

    def unit(self, unit: Expression) -> None:
        """One block of rows (or a gate and an up block) times all tokens."""
        unit = tir.bind(unit)
        if self.kernel.tokens != "all":
            row = self.frame.worker if self.kernel.tokens == "own" else tir.int32(0)
            self.tokens(unit, row, tir.int32(0))
            return
        tiles = tirx.floordiv(self.frame.count + tir.int32(TOKENS - 1), tir.int32(TOKENS))
        with T.serial(tiles) as tile:
            first = tir.bind(tile * tir.int32(TOKENS))
            self.tokens(unit, first, first)

    def tokens(self, unit: Expression, source: Expression, target: Expression) -> None:
        """A tile of tokens: activations from row `source` on, results from row `target` on."""
        parts = self.kernel.weight.interleave
        total = tir.local((self.tile, parts, ROWS))
        for row in range(self.tile):
            for part in range(parts):
                tir.store(total, [row, part, 0], tir.zeros())
        with T.serial(self.steps) as step:
            for part in range(parts):
                self.step(unit * tir.int32(parts) + tir.int32(part), part, step, source, total)
        for row in range(self.tile):
            sums = [tir.bind(tir.load(total, [row, part, 0])) for part in range(parts)]
            self.write(unit, target + tir.int32(row), sums)

    def step(
        self, block: Expression, part: int, step: Expression, source: Expression, total: Expression
    ) -> None:
        """One column, or one pair of columns."""
        packed = tir.bind(tir.load(self.weight, [block, step, 0]))
        if self.kernel.tokens != "all":
            tir.prefetch(self.weight, [block, step, PREFETCH_BYTES // 4])
        for column, values in enumerate(self.widen(packed)):
            for row in range(self.tile):
                at = [source + tir.int32(row), step * tir.int32(self.pair) + tir.int32(column)]
                activation = tir.spread(tir.bind(self.activation[tuple(at)]))
                running = tir.fused_multiply_add(values, activation, tir.load(total, [row, part, 0]))
                tir.store(total, [row, part, 0], running)

    def widen(self, packed: Expression) -> list[Expression]:
        """The packed columns as float32 vectors."""
        if self.pair == 1:
            return [packed]
        low = packed << tir.spread(tir.constant(16, "uint32"))
        high = packed & tir.spread(tir.constant(0xFFFF0000, "uint32"))
        return [tir.bind(tir.reinterpret(half, "float32x16")) for half in (low, high)]

    def write(self, unit: Expression, token: Expression, sums: list[Expression]) -> None:
        """The epilogue for one token."""
        at = [token, unit * tir.int32(ROWS) + tir.int32(self.kernel.result_offset)]
        finish(self.result, at, sums, self.kernel.epilogue)
