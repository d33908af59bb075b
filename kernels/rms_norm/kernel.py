"""RMSNorm over rows that are padded by zeros to whole vectors."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import LANES, Expression, KernelFrame


@dataclass(frozen=True)
class RmsNorm:
    """`result = x / √(mean x² + epsilon) · weight`.

    With `last`, every worker normalises the last of `count` tokens into its own row of result
    `[workers, stride]`; otherwise the workers share the `count` rows. Pointers: x `[count, stride]`, weight
    `[stride]`, result; the padding of x and weight is zero, and so is the result's.
    """

    columns: int
    stride: int  # columns rounded up to whole vectors
    epsilon: float
    last: bool

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        return {"x": "float32", "weight": "float32", "result": "float32"}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        del instructions  # nothing here that LLVM does not do as well
        x = frame.buffer("x", (frame.count, self.stride), "float32")
        weight = frame.buffer("weight", (self.stride,), "float32")
        rows = frame.workers if self.last else frame.count
        result = frame.buffer("result", (rows, self.stride), "float32")
        if self.last:
            self.row(x, weight, result, frame.count - tir.int32(1), frame.worker)
        else:
            frame.each_own(frame.count, lambda row: self.row(x, weight, result, row, row))

    def row(
        self, x: Expression, weight: Expression, result: Expression, source: Expression, to: Expression
    ) -> None:
        """Normalise row `source` of x into row `to` of result."""
        squares = tir.local((LANES,))
        tir.store(squares, [0], tir.zeros())
        with T.serial(self.stride // LANES) as vector:
            value = tir.bind(tir.load(x, [source, vector * LANES]))
            tir.store(squares, [0], tir.fused_multiply_add(value, value, tir.load(squares, [0])))
        mean = tir.sum_lanes(tir.load(squares, [0])) * tir.float32(1.0 / self.columns)
        inverse = tir.bind(tir.float32(1.0) / tir.square_root(mean + tir.float32(self.epsilon)))
        with T.serial(self.stride // LANES) as vector:
            at = vector * LANES
            value = tir.load(x, [source, at]) * tir.spread(inverse) * tir.load(weight, [at])
            tir.store(result, [to, at], value)
