"""One function for each kernel: what a row of a stage table asks for.

A row has `ROW` int64, `[kernel, barrier, guard, pointer …]`. The runtime (runtime.c) walks the table and
calls the functions; each takes a row, and finds its buffers there. Functions are apart so that
LLVM gives each the registers it needs: in one function for all, kernels slowed each other down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import IRModule, tirx
from tvm.ir import GlobalVar
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from intaglio.backends.tvm.program import POINTERS, ROW
from intaglio.kernels import tir
from intaglio.kernels.catalogue import Kernel
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import Expression, KernelFrame

SCALARS = ("worker", "workers", "count", "position")


def kernel_module(kernels: Sequence[Kernel], numbers: Sequence[int], instructions: Instructions) -> IRModule:
    """TVM's functions `kernel_0`, `kernel_1`, … `(worker, workers, count, position, row)`, so numbered."""
    functions = {
        name_of(number): kernel_function(name_of(number), kernel, instructions)
        for number, kernel in zip(numbers, kernels, strict=True)
    }
    return IRModule({GlobalVar(name): one for name, one in functions.items()})


def name_of(index: int) -> str:
    """The name of the function of kernel `index`."""
    return f"kernel_{index}"


def kernel_function(name: str, kernel: Kernel, instructions: Instructions) -> Any:
    """TVM's function for one kernel."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True})
        worker, workers, count, position = (
            T.arg(scalar, tirx.Var(scalar, tir.primitive("int32"))) for scalar in SCALARS
        )
        row = T.decl_buffer((ROW,), "int64", data=T.arg("row", tirx.Var("row", tir.pointer_type("int64"))))
        frame = KernelFrame(worker, workers, count, position, _pointers(kernel, row))
        with tir.imported(instructions):
            kernel.emit(frame, instructions)
    return builder.get()


def _pointers(kernel: Kernel, row: Expression) -> dict[str, Expression]:
    """The row's addresses as typed pointers, by name."""
    return {
        name: tir.bind(tirx.reinterpret(tir.pointer_type(dtype), row[POINTERS + place]))
        for place, (name, dtype) in enumerate(kernel.pointers.items())
    }
