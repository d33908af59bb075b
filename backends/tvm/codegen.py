"""Kernels and one entry function → an object file, and with the C runtime a shared object.

The entry function interprets a stage table: rows of `ROW` int64, `[kernel, barrier, pointer …]`. As a program it is run
in a process of its own (`python -m intaglio.backends.tvm.codegen`), since LLVM aborts the process on an instruction that
the target lacks.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intaglio.backends.tvm.program import KernelCode, Program
from intaglio.compiler.errors import CodegenError, TargetError
from intaglio.cost_models.target import Target

if TYPE_CHECKING:
    from intaglio.kernels.catalogue import Kernel
    from intaglio.kernels.instructions import Instructions

ROW = 16  # int64 per stage
RUNTIME = Path(__file__).with_name("runtime.c")


def build_library(program: Program, target: Target, path: Path) -> None:
    """Generate code for the kernels of `program` and link it with the C runtime into the shared object `path`.

    Raises:
        CodegenError: if TVM, LLVM or the C compiler fail.
        TargetError: if there is no C compiler.
    """
    with tempfile.TemporaryDirectory(prefix="intaglio-") as folder:
        object_file = Path(folder) / "program.o"
        build_object(program.kernels, target, object_file)
        link(object_file, target, path)


def build_object(kernels: tuple[KernelCode, ...], target: Target, path: Path) -> None:
    """Generate code for `kernels` into the object file `path`, in a process of its own."""
    request = {
        "kernels": [dataclasses.asdict(kernel) for kernel in kernels],
        "target": dataclasses.asdict(target),
        "path": str(path),
    }
    command = [sys.executable, "-P", "-m", "intaglio.backends.tvm.codegen"]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip()[-2000:] or f"the process ended with code {done.returncode}"
        raise CodegenError(f"codegen: no code for target {target.name}: {reason}")


def c_compiler() -> str:
    """The C compiler's path: `$CC`, cc, gcc or clang; raises `TargetError` if there is none."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and (path := shutil.which(name)):
            return path
    raise TargetError("codegen: no C compiler (cc, gcc, clang or $CC) found; install one, e.g. `apt install gcc`")


def link(object_file: Path, target: Target, path: Path) -> None:
    """Compile the C runtime and link it with `object_file` into the shared object `path`."""
    command = [c_compiler(), "-O3", "-shared", "-fPIC", "-pthread", "-ffp-contract=fast", *target.c_flags]
    command += ["-o", str(path), str(object_file), str(RUNTIME), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CodegenError(f"codegen: `{' '.join(command)}` failed: {done.stderr.strip()[-2000:]}")


def generate(kernels: tuple[KernelCode, ...], target: Target, path: Path) -> None:
    """Generate code for `kernels` into the object file `path`, here and now."""
    import tvm

    from intaglio.kernels.catalogue import kernel_from_json
    from intaglio.kernels.instructions import Instructions

    built = [kernel_from_json(kernel.name, kernel.parameters) for kernel in kernels]
    module = tvm.IRModule({tvm.ir.GlobalVar("run"): _entry(built, Instructions(target.instructions))})
    llvm = tvm.target.Target({"kind": "llvm", "mcpu": target.cpu, "mtriple": target.triple})
    tvm.compile(module, target=llvm).mod.write_to_file(str(path))


def _entry(kernels: list[Kernel], instructions: Instructions) -> Any:
    """`run(worker, workers, count, position, table, stages, pool)`.

    Kernels are written into its body: TVM puts what a private function allocates on the heap.
    """
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.tirx.script.builder import ir as T  # noqa: N812

    from intaglio.kernels import tir

    def integer(name: str) -> Any:
        return T.arg(name, tirx.Var(name, tir.primitive("int32")))

    def pointer(name: str, dtype: str) -> Any:
        return T.arg(name, tirx.Var(name, tir.pointer_type(dtype)))

    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("run")
            T.func_attr({"tirx.noalias": True})
            scalars = [integer(name) for name in ("worker", "workers", "count", "position")]
            rows, stages, pool = pointer("table", "int64"), integer("stages"), pointer("pool", "int8")
            table = T.decl_buffer((stages, ROW), "int64", data=rows)
            with T.serial(stages) as stage:
                selected = T.Bind(table[stage, 0])
                for index, kernel in enumerate(kernels):
                    with T.If(selected.equal(tirx.const(index, "int64"))), T.Then():
                        pointers = {
                            name: T.Bind(tirx.reinterpret(tir.pointer_type(dtype), table[stage, 2 + place]))
                            for place, (name, dtype) in enumerate(kernel.pointers.items())
                        }
                        kernel.emit(tir.KernelFrame(*scalars, pointers), instructions)
                with T.If(table[stage, 1].equal(tirx.const(1, "int64"))), T.Then():
                    T.evaluate(tirx.call_extern(tir.primitive("int32"), "intaglio_barrier", pool, scalars[0], stage))
    return builder.get()


def main() -> None:
    """Read a request from standard input and generate its object file."""
    request = json.load(sys.stdin)
    kernels = tuple(KernelCode(**kernel) for kernel in request["kernels"])
    values = request["target"]
    target = Target(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    generate(kernels, target, Path(request["path"]))


if __name__ == "__main__":
    main()
