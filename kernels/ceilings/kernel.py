"""Kernels that do one thing as fast as the target's instructions can: benchmarks measure ceilings with them.

They are in every program, so that a ceiling is measured by the code, the threads and the minute that it is
compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.ceilings.sizes import BLOCK, LANES, PARTS, PRODUCTS, STEPS, TOKENS
from intaglio.kernels.instructions import Bfloat16Dots, Instructions
from intaglio.kernels.tir import Expression, KernelFrame

AHEAD = 4096  # bytes between what is read and what is asked for
STREAMS = 4  # cache lines read at a time
LINE = 64  # bytes


@dataclass(frozen=True)
class ReadMemory:
    """`result[worker]` = the exclusive or of the worker's share of `count` blocks of 4096 bytes.

    Pointers: data int32 `[count, 1024]`, result int32 `[workers, 16]`.
    """

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        return {"data": "int32", "result": "int32"}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        del instructions
        lines = BLOCK // LINE
        data = frame.buffer("data", (frame.count, lines, LANES), "int32")
        result = frame.buffer("result", (frame.workers, LANES), "int32")
        sums = [tir.local((LANES,), "int32") for _ in range(STREAMS)]
        for one in sums:
            tir.store(one, [0], tir.spread(tir.int32(0)))

        def block(unit: Expression) -> None:
            with T.serial(lines // STREAMS) as group:
                first = tir.bind(group * tir.int32(STREAMS))
                for stream, total in enumerate(sums):
                    at = [unit, first + tir.int32(stream), 0]
                    tir.prefetch(data, [unit, first + tir.int32(stream + AHEAD // LINE), 0])
                    tir.store(total, [0], tir.load(total, [0]) ^ tir.load(data, at))

        frame.each_own(frame.count, block)
        values = [tir.load(one, [0]) for one in sums]
        tir.store(result, [frame.worker, 0], values[0] ^ values[1] ^ values[2] ^ values[3])


@dataclass(frozen=True)
class MultiplyInCache:
    """`result[worker, token, part] += count · Σ over steps of vectors[step, part] · factors[step, token]`.

    `product` says what a lane of 4 bytes holds: four bytes (unsigned times signed), two bfloat16, one float.
    Every worker does all of it: the kernel is there to be timed.

    Pointers: vectors `[STEPS, PARTS, 16]`, factors `[STEPS, TOKENS]`, result `[workers, TOKENS, PARTS, 16]`;
    elements are int32 where products are of bytes, in vectors and factors also for bfloat16; else float32.
    """

    product: str  # a key of `sizes.PRODUCTS`

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        operand = "float32" if self.product == "float" else "int32"
        return {"vectors": operand, "factors": operand, "result": self._sum}

    @property
    def _sum(self) -> str:
        return "int32" if self.product == "bytes" else "float32"

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        tokens, parts = (TOKENS, PARTS) if instructions.wide else (4, 1)
        with T.serial(frame.count):
            for token in range(0, TOKENS, tokens):
                for part in range(0, PARTS, parts):
                    self._tile(frame, instructions, range(token, token + tokens), range(part, part + parts))

    def _tile(
        self, frame: KernelFrame, instructions: Instructions, tokens: Sequence[int], parts: Sequence[int]
    ) -> None:
        """All steps of as many sums as there are registers for."""
        operand = self.pointers["vectors"]
        vectors = frame.buffer("vectors", (STEPS, PARTS, LANES), operand)
        factors = frame.buffer("factors", (STEPS, TOKENS), operand)
        result = frame.buffer("result", (frame.workers, TOKENS, PARTS, LANES), self._sum)
        # One buffer for each sum: none may be large.
        sums = {(token, part): tir.local((LANES,), self._sum) for token in tokens for part in parts}
        for (token, part), total in sums.items():
            tir.store(total, [0], tir.load(result, [frame.worker, token, part, 0]))
        with T.serial(STEPS) as step:
            values = {part: tir.bind(tir.load(vectors, [step, part, 0])) for part in parts}
            for token in tokens:
                factor = tir.bind(factors[step, token])
                for part in parts:
                    total = sums[token, part]
                    tir.store(total, [0], self._add(tir.load(total, [0]), values[part], factor, instructions))
        for (token, part), total in sums.items():
            tir.store(result, [frame.worker, token, part, 0], tir.load(total, [0]))

    def _add(
        self, total: Expression, vector: Expression, factor: Expression, instructions: Instructions
    ) -> Expression:
        if self.product == "bytes":
            return tir.dot4(total, vector, factor, instructions)
        if self.product == "float":
            return tir.fused_multiply_add(vector, tir.spread(factor), total)
        if instructions.bfloat16_dots is not Bfloat16Dots.NONE:
            return tir.dot2(total, vector, tir.spread(factor))
        low = tir.fused_multiply_add(_low(vector), _low(tir.spread(factor)), total)
        return tir.fused_multiply_add(_high(vector), _high(tir.spread(factor)), low)


def _low(pairs: Expression) -> Expression:
    """The first bfloat16 of each pair, as float32."""
    return tir.reinterpret(pairs << tir.spread(tir.int32(16)), f"float32x{LANES}")


def _high(pairs: Expression) -> Expression:
    """The second."""
    return tir.reinterpret(pairs & tir.spread(tir.int32(-65536)), f"float32x{LANES}")


CEILINGS = (ReadMemory(), *(MultiplyInCache(product) for product in PRODUCTS))
