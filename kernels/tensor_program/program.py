"""Tensor programs as data: what is computed from some tensors, step by step. Importing this needs no TVM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from intaglio.compiler.errors import CodegenError
from intaglio.kernels.row_program.program import BINARY, UNARY, Step
from intaglio.kernels.tensor_program.operand import ELEMENTS, Operand

if TYPE_CHECKING:
    from intaglio.kernels.instructions import Instructions
    from intaglio.kernels.tir import KernelFrame

ARGUMENTS = {
    **dict.fromkeys(("input", "number"), 0),
    **dict.fromkeys((*UNARY, "not", "floor", "ceil", "round", "sign"), 1),
    **dict.fromkeys((*BINARY, "equal", "less", "less_equal"), 2),
    "where": 3,
}  # how many arguments each op takes


@dataclass(frozen=True)
class TensorProgram:
    """`result[i] = steps[-1]` for every index i of `extents`.

    Inputs and result say by strides where an element lies, so that tensors may be broadcast, transposed or
    channels-last; values are float32 on the way, whatever they are in memory (integers are exact up to 2²⁴),
    comparisons give 1 or 0, and a result that is an integer is truncated. The last `zeros` indices of the
    result's innermost axis become zero. Workers share the work; the result may lie in place of an input with
    the same strides. Pointers: input0 …, result.

    Steps are those of row programs without vectors and norms, and "not", "floor", "ceil", "round" (halves to
    even), "sign", "equal", "less", "less_equal", and "where" (condition, if not zero, if zero).

    Raises:
        CodegenError: if steps, strides and elements contradict each other.
    """

    extents: tuple[int, ...]
    inputs: tuple[Operand, ...]
    steps: tuple[Step, ...]
    result: Operand
    zeros: int = 0

    def __post_init__(self) -> None:
        if problems := find_problems(self):
            raise CodegenError("tensor program: " + "; ".join([*problems, "please report this"]))

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        inputs = {f"input{i}": one.element for i, one in enumerate(self.inputs)}
        return {**inputs, "result": self.result.element}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        from intaglio.kernels.tensor_program.kernel import emit_tensors  # imports TVM

        del instructions  # nothing here that LLVM does not do as well
        emit_tensors(self, frame)


def find_problems(program: TensorProgram) -> list[str]:
    """Everything that is wrong with a program, in words; empty if nothing is."""
    problems = [
        f"operand {i}: {len(one.strides)} strides of {one.element!r} for {len(program.extents)} axes"
        for i, one in enumerate((*program.inputs, program.result))
        if len(one.strides) != len(program.extents) or one.element not in ELEMENTS
    ]
    problems += [f"there are {extent} elements along an axis" for extent in program.extents if extent < 1]
    for i, step in enumerate(program.steps):
        if step.op not in ARGUMENTS or len(step.arguments) != ARGUMENTS[step.op]:
            problems.append(f"step {i}: there is no {step.op!r} of {len(step.arguments)} arguments")
        problems += [
            f"step {i}: argument {one} is no earlier step" for one in step.arguments if not 0 <= one < i
        ]
        if step.op == "input" and not 0 <= step.index < len(program.inputs):
            problems.append(f"step {i}: there is no input {step.index}")
    if not program.steps:
        problems.append("there are no steps")
    repeated = zip(program.extents, program.result.strides, strict=False)
    if any(extent > 1 and stride == 0 for extent, stride in repeated):
        problems.append("the result repeats")
    return problems
