"""The one function that generated code exports: it interprets a stage table.

A table has rows of `ROW` int64, `[kernel, barrier, guard, pointer …]`: a stage whose guard is the address of
a zero is skipped, with its barrier. Every worker runs all of it; the kernels are written into the function's
body, since TVM puts what a private function allocates on the heap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from intaglio.backends.tvm.program import POINTERS, ROW
from intaglio.kernels import tir
from intaglio.kernels.catalogue import Kernel
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import Expression, KernelFrame

GUARD = 2  # place of the guard in a row


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
        selected = tir.local((1,), "int64")
        with T.serial(stages) as stage:
            tir.store(selected, [0], table[stage, 0])
            _select_nothing_if_guarded(selected, table, stage)
            for index, kernel in enumerate(kernels):
                with T.If(selected[0].equal(_int64(index))), T.Then():
                    pointers = _pointers(kernel, table, stage)
                    kernel.emit(KernelFrame(worker, workers, count, position, pointers), instructions)
            with T.If(tirx.all(table[stage, 1].equal(_int64(1)), selected[0] >= _int64(0))), T.Then():
                _barrier(pool, worker, stage)
    return builder.get()


def _select_nothing_if_guarded(selected: Expression, table: Expression, stage: Expression) -> None:
    with T.If(table[stage, GUARD] > _int64(0)), T.Then():
        address = tir.bind(tirx.reinterpret(tir.pointer_type("float32"), table[stage, GUARD]))
        guard = T.decl_buffer((1,), "float32", data=address)
        with T.If(guard[0].equal(tir.float32(0.0))), T.Then():
            tir.store(selected, [0], _int64(-1))


def _pointers(kernel: Kernel, table: Expression, stage: Expression) -> dict[str, Expression]:
    """The stage's addresses as typed pointers, by name."""
    return {
        name: tir.bind(tirx.reinterpret(tir.pointer_type(dtype), table[stage, POINTERS + place]))
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
