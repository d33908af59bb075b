"""The one function that generated code exports: it interprets a stage table.

A table has rows of `ROW` int64, `[kernel, barrier, pointer …]`. Every worker runs all of it; the kernels are
written into the function's body, since TVM puts what a private function allocates on the heap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from intaglio.backends.tvm.program import ROW
from intaglio.kernels import tir
from intaglio.kernels.catalogue import Kernel
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import Expression, KernelFrame


def entry_function(kernels: Sequence[Kernel], instructions: Instructions) -> Any:
    """TVM's function `run(worker, workers, count, position, table, stages, pool)` over `kernels`."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("run")
        T.func_attr({"tirx.noalias": True})
        worker, workers, count, position = (
            _integer(name) for name in ("worker", "workers", "count", "position")
        )
        rows, stages, pool = _pointer("table", "int64"), _integer("stages"), _pointer("pool", "int8")
        table = T.decl_buffer((stages, ROW), "int64", data=rows)
        with T.serial(stages) as stage:
            selected = tir.bind(table[stage, 0])
            for index, kernel in enumerate(kernels):
                with T.If(selected.equal(_int64(index))), T.Then():
                    pointers = _pointers(kernel, table, stage)
                    kernel.emit(KernelFrame(worker, workers, count, position, pointers), instructions)
            with T.If(table[stage, 1].equal(_int64(1))), T.Then():
                _barrier(pool, worker, stage)
    return builder.get()


def _pointers(kernel: Kernel, table: Expression, stage: Expression) -> dict[str, Expression]:
    """The stage's addresses as typed pointers, by name."""
    return {
        name: tir.bind(tirx.reinterpret(tir.pointer_type(dtype), table[stage, 2 + place]))
        for place, (name, dtype) in enumerate(kernel.pointers.items())
    }


def _barrier(pool: Expression, worker: Expression, stage: Expression) -> None:
    T.evaluate(tirx.call_extern(tir.primitive("int32"), "intaglio_barrier", pool, worker, stage))


def _int64(value: int) -> Expression:
    return tir.constant(value, "int64")


def _integer(name: str) -> Expression:
    return T.arg(name, tirx.Var(name, tir.primitive("int32")))


def _pointer(name: str, dtype: str) -> Expression:
    return T.arg(name, tirx.Var(name, tir.pointer_type(dtype)))
