"""Resizings as data. Importing this needs no TVM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from intaglio.compiler.errors import CodegenError
from intaglio.kernels.chain.steps import ChainStep, operands_of
from intaglio.kernels.chain.steps import find_problems as chain_problems
from intaglio.kernels.convolution.convolution import LANES, padded

if TYPE_CHECKING:
    from intaglio.kernels.instructions import Instructions
    from intaglio.kernels.tir import KernelFrame

MODES = ("nearest", "linear")


@dataclass(frozen=True)
class Resize:
    """Images of another height and width, float32; which pixels a result comes from stands in tables.

    "nearest": `result[y, x] = chain(input[rows[y], columns[x]])`. "linear": rows and columns are pairs, and
    `row_parts[y]`, `column_parts[x]` the second ones' share. `tables.py` makes all of these.
    Input `[batch, height, width, input_stride]`, result `[batch, height', width', result_stride]`, channels
    in whole vectors of 16. Pointers: input, rows int32 `[height']` or `[height', 2]`, columns likewise,
    (linear:) row_parts float32 `[height']`, column_parts `[width']`, operand0 … of the chain, result.

    Raises:
        CodegenError: if sizes contradict each other.
    """

    batch: int
    size: tuple[int, int]  # height and width of the input
    result_size: tuple[int, int]
    channels: int
    mode: str = "nearest"
    chain: tuple[ChainStep, ...] = ()
    input_stride: int = 0  # floats from pixel to pixel; 0: channels rounded up to 16
    input_offset: int = 0
    result_stride: int = 0
    result_offset: int = 0  # a multiple of 16

    def __post_init__(self) -> None:
        if problems := find_problems(self):
            raise CodegenError("resize: " + "; ".join([*problems, "please report this"]))

    @property
    def pixel(self) -> int:
        """Floats from pixel to pixel of the input."""
        return self.input_stride or padded(self.channels)

    @property
    def result_pixel(self) -> int:
        """Floats from pixel to pixel of the result."""
        return self.result_stride or padded(self.channels)

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        found = {"input": "float32", "rows": "int32", "columns": "int32"}
        if self.mode == "linear":
            found |= {"row_parts": "float32", "column_parts": "float32"}
        found |= {f"operand{i}": "float32" for i in range(len(operands_of(self.chain)))}
        return found | {"result": "float32"}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        from intaglio.kernels.resize.kernel import emit_resize  # imports TVM

        del instructions  # bound by memory
        emit_resize(self, frame)


def find_problems(kernel: Resize) -> list[str]:
    """Everything that is wrong with a resizing, in words; empty if nothing is."""
    if min(kernel.batch, kernel.channels, *kernel.size, *kernel.result_size) < 1:
        return ["sizes are at least 1"]
    problems = chain_problems(kernel.chain)
    if kernel.mode not in MODES:
        problems.append(f"there is no mode {kernel.mode!r}")
    for offset, stride in (
        (kernel.input_offset, kernel.pixel),
        (kernel.result_offset, kernel.result_pixel),
    ):
        if offset + padded(kernel.channels) > stride:
            problems.append(f"{kernel.channels} channels from {offset} on do not fit a stride of {stride}")
    if kernel.result_offset % LANES:
        problems.append(f"the result begins at channel {kernel.result_offset}, not at a multiple of {LANES}")
    return problems
