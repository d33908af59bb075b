"""Kernels → an object file, and with the C runtime a shared object.

As a program (`python -m intaglio.backends.tvm.codegen`) this module generates code in a process of its own,
since LLVM aborts the process on an instruction that the target lacks.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from intaglio.backends.tvm.program import POINTERS, ROW, KernelCode
from intaglio.compiler.errors import CodegenError, TargetError
from intaglio.cost_models.target import Target

if TYPE_CHECKING:
    from intaglio.kernels.instructions import Instructions

RUNTIME = Path(__file__).with_name("runtime.c")
WORTHWHILE = 8  # kernels for which starting another process with TVM pays
# What takes TVM's time and finds nothing: the kernels' buffers are as small as can be, most of all.
IDLE_PASSES = (
    "s_tir.CompactBufferAllocation",
    "s_tir.InjectPermutedLayout",
    "s_tir.InjectVirtualThread",
    "s_tir.InsertHoistIfThenElse",
    "s_tir.RenormalizeSplitPattern",
)


class HasKernels(Protocol):
    """A program of any kind."""

    @property
    def kernels(self) -> tuple[KernelCode, ...]:
        """What its tables number."""


def build_library(program: HasKernels, target: Target, path: Path) -> None:
    """Generate code for the kernels of `program` and link it with the C runtime into the library `path`.

    Raises:
        CodegenError: if TVM, LLVM or the C compiler fail.
        TargetError: if there is no C compiler.
    """
    kernels = program.kernels
    count = max(1, min(os.cpu_count() or 1, len(kernels) // WORTHWHILE))
    with tempfile.TemporaryDirectory(prefix="intaglio-") as folder:
        runtime = Path(folder) / "runtime.o"
        build_runtime(target, runtime)  # first: it is quick, and shows whether there is a C compiler
        parts = [range(first, len(kernels), count) for first in range(count)]
        objects = [Path(folder) / f"program-{part.start}.o" for part in parts]
        with ThreadPoolExecutor(count) as pool:
            asked = [
                pool.submit(build_object, [kernels[one] for one in part], target, file, part)
                for part, file in zip(parts, objects, strict=True)
            ]
        for one in asked:
            one.result()
        link((*objects, runtime), symbols(kernels), path)


def build_object(
    kernels: Sequence[KernelCode], target: Target, path: Path, numbers: Sequence[int] | None = None
) -> None:
    """Generate code for `kernels` into the object file `path`, in a process of its own.

    `numbers` are the kernels' in their program; left out, they are counted from 0.
    """
    request = {
        "kernels": [dataclasses.asdict(kernel) for kernel in kernels],
        "numbers": list(range(len(kernels)) if numbers is None else numbers),
        "target": target.to_json(),
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
    raise TargetError(
        "codegen: no C compiler (cc, gcc, clang or $CC) found; install one, e.g. `apt install gcc`"
    )


def build_runtime(target: Target, path: Path) -> None:
    """Compile the C runtime into the object file `path`."""
    layout = (f"-DROW={ROW}", f"-DPOINTERS={POINTERS}")
    _call_c_compiler(
        "-O3", "-ffp-contract=fast", *layout, *target.c_flags, "-c", "-o", str(path), str(RUNTIME)
    )


def link(objects: Sequence[Path], functions: Sequence[str], path: Path) -> None:
    """Link object files, of which one is the C runtime's, into the shared object `path`.

    `functions` are the symbols of the kernels, in the order in which stage tables number them.
    """
    declared = "".join(f"extern int {name}(void *, const void *, int, void *);\n" for name in set(functions))
    listed = ", ".join(f"(void *){name}" for name in functions) or "0"
    table = path.with_suffix(".c")
    table.write_text(f"{declared}void *const intaglio_kernels[] = {{{listed}}};\n")
    # Symbolic: where TVM is loaded too, its function for telling errors must not take the place of ours.
    files = [str(one) for one in (*objects, table)]
    _call_c_compiler("-shared", "-Wl,-Bsymbolic", "-o", str(path), *files, "-lm")
    table.unlink()


def symbols(kernels: Sequence[KernelCode]) -> list[str]:
    """The symbols that `build_object` gives to `kernels`."""
    return [f"__tvm_ffi_kernel_{index}" for index in range(len(kernels))]


def _call_c_compiler(*arguments: str) -> None:
    command = [c_compiler(), "-fPIC", "-pthread", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CodegenError(f"codegen: `{' '.join(command)}` failed: {done.stderr.strip()[-2000:]}")


def generate(
    kernels: Sequence[KernelCode], target: Target, path: Path, numbers: Sequence[int] | None = None
) -> None:
    """As `build_object`, here and now."""
    from intaglio.kernels.instructions import instructions_named

    instructions = instructions_named(target.instructions)
    compiled(kernels, target, instructions, numbers).write_to_file(str(path))


def compiled(
    kernels: Sequence[KernelCode],
    target: Target,
    instructions: Instructions,
    numbers: Sequence[int] | None = None,
) -> Any:
    """TVM's module of machine code for `kernels`: an object file, or assembly by `inspect_source("s")`."""
    import tvm

    from intaglio.backends.tvm.entry import kernel_module
    from intaglio.kernels.catalogue import kernel_from_json

    built = [kernel_from_json(kernel.name, kernel.parameters) for kernel in kernels]
    features = {"mattr": list(target.llvm_features)} if target.llvm_features else {}
    llvm = tvm.target.Target({"kind": "llvm", "mcpu": target.cpu, "mtriple": target.triple, **features})
    with tvm.transform.PassContext(disabled_pass=list(IDLE_PASSES)):
        module = kernel_module(built, numbers or range(len(built)), instructions)
        return tvm.compile(module, target=llvm).mod


def main() -> None:
    """Read a request from standard input and generate its object file."""
    # TVM imports torch where there is one, which takes longer than generating the code, and has no use here.
    sys.modules["torch"] = None  # type: ignore[assignment]
    request = json.load(sys.stdin)
    kernels = [KernelCode(**kernel) for kernel in request["kernels"]]
    generate(kernels, Target.from_json(request["target"]), Path(request["path"]), request["numbers"])


if __name__ == "__main__":
    main()
