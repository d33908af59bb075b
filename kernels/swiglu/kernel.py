"""silu(gate) · up for gates and ups that come from two products; one product has it as its epilogue."""

from __future__ import annotations

from dataclasses import dataclass

from intaglio.kernels import tir
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import LANES, Expression, KernelFrame


@dataclass(frozen=True)
class SwiGlu:
    """`gate = silu(gate) · up` for `count` tokens, in place.

    Pointers: gate and up float32 `[count, stride]`, stride a multiple of 16.
    """

    stride: int

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        return {"gate": "float32", "up": "float32"}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        del instructions  # LLVM vectorises it equally well for every family
        shape = (frame.count * tir.int32(self.stride),)
        gate, up = (frame.buffer(name, shape, "float32") for name in self.pointers)

        def vector(index: Expression) -> None:
            at = [index * tir.int32(LANES)]
            value = tir.bind(tir.load(gate, at))
            tir.store(gate, at, value * tir.logistic(value) * tir.load(up, at))

        frame.each_own(frame.count * tir.int32(self.stride // LANES), vector)
