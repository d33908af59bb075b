"""Reductions as data. Importing this needs no TVM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from intaglio.compiler.errors import CodegenError
from intaglio.kernels.tensor_program.operand import ELEMENTS, Operand

if TYPE_CHECKING:
    from intaglio.kernels.instructions import Instructions
    from intaglio.kernels.tir import KernelFrame

OPS = ("sum", "mean", "max", "min", "product", "sum_squares", "mean_squares")


@dataclass(frozen=True)
class Reduction:
    """`result[kept indices] = op over the reduced ones of input[all]`.

    Axes whose stride in the result is 0 are reduced, the others are kept; the input may be anything, the
    result is float32. Workers share the kept elements. Pointers: input, result.

    Raises:
        CodegenError: if axes, strides and elements contradict each other.
    """

    op: str
    extents: tuple[int, ...]
    input: Operand
    result: Operand

    def __post_init__(self) -> None:
        problems = [] if self.op in OPS else [f"there is no {self.op!r}"]
        if any(len(one.strides) != len(self.extents) for one in (self.input, self.result)):
            problems.append(f"strides of {len(self.extents)} axes are wanted")
        if self.input.element not in ELEMENTS or self.result.element != "float32":
            problems.append(f"there is no {self.op} of {self.input.element!r} in {self.result.element!r}")
        if any(extent < 1 for extent in self.extents):
            problems.append(f"extents of {self.extents} are empty")
        if problems:
            raise CodegenError("reduction: " + "; ".join([*problems, "please report this"]))

    @property
    def reduced(self) -> tuple[int, ...]:
        """The axes that are reduced."""
        return tuple(i for i, stride in enumerate(self.result.strides) if stride == 0)

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        return {"input": self.input.element, "result": self.result.element}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        from intaglio.kernels.reduction.kernel import emit_reduction  # imports TVM

        del instructions  # bound by memory or by additions that LLVM does as well
        emit_reduction(self, frame)
