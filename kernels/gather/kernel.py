"""Rows of a table chosen by indices; `count` of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from intaglio.compiler.errors import CodegenError

if TYPE_CHECKING:
    from intaglio.kernels.instructions import Instructions
    from intaglio.kernels.tir import KernelFrame

LANES = 16


@dataclass(frozen=True)
class GatherRows:
    """`result[i, :columns] = table[index[i], :columns]` of float32; a negative index counts from the end.

    An index beyond the table takes its first or last row. Pointers: table `[rows, stride]`, index (int32 or
    int64) `[count]`, result `[count, result_stride]`.

    Raises:
        CodegenError: for indices of another type.
    """

    rows: int
    columns: int
    stride: int
    result_stride: int
    index: str  # "int32" or "int64"

    def __post_init__(self) -> None:
        if self.index not in ("int32", "int64"):
            raise CodegenError(f"gather: indices are {self.index}, not int32 or int64; please report this")

    @property
    def pointers(self) -> dict[str, str]:
        """Pointer arguments in order."""
        return {"table": "float32", "index": self.index, "result": "float32"}

    def emit(self, frame: KernelFrame, instructions: Instructions) -> None:
        """Write the kernel's code into the function being built."""
        from intaglio.kernels.gather.code import emit_gather  # imports TVM

        del instructions
        emit_gather(self, frame)
