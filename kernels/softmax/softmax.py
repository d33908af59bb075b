"""Softmax as data. Importing this needs no TVM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from intaglio.compiler.errors import CodegenError

if TYPE_CHECKING:
    from intaglio.kernels.instructions import Instructions
    from intaglio.kernels.tir import KernelFrame


@dataclass(frozen=True)
class Softmax:
    """`e^(x - m) / Σ e^(x - m)` with m = max x, or its logarithm, over the middle of three axes, float32.

    Source and result are `[outer, extent, inner]`, rows (one for each outer index) `stride` apart; `zeros`
    elements after each row of the result become zero, where `inner` is 1. Workers share the rows, or columns
    where `inner` is not 1. The result may lie in place of the source. Pointers: source, result.

    Raises:
        CodegenError: if sizes contradict each other.
    """

    outer: int
    extent: int
    inner: int = 1
    stride: int = 0  # floats; 0: extent · inner
    zeros: int = 0
    logarithm: bool = False

    def __post_init__(self) -> None:
        problems = []
        if min(self.outer, self.extent, self.inner) < 1:
            problems.append(f"{self.outer} × {self.extent} × {self.inner} is empty")
        if self.row < self.extent * self.inner + self.zeros:
            problems.append(f"rows {self.stride} apart overlap")
        if self.zeros and self.inner > 1:
            problems.append("only rows of one column have zeros after them")
        if problems:
            raise CodegenError("softmax: " + "; ".join([*problems, "please report this"]))

    @property
    def row(self) -> int:
        """Floats from one row to the next."""
        return self.stride or self.extent * self.inner

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        return {"source": "float32", "result": "float32"}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        from intaglio.kernels.softmax.kernel import emit_softmax  # imports TVM

        del instructions  # nothing here that LLVM does not do as well
        emit_softmax(self, frame)
