"""Builds programs of kernels that are each compiled once: many small models share most of theirs.

A function in C takes the place of the entry function that would hold them all: it runs a stage table row by
row, each in the object file of its kernel, where the kernel has the number 0. The kernels' code is the same.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from intaglio.backends.tvm import Program, codegen
from intaglio.backends.tvm.program import ROW
from intaglio.cost_models import Target

ENTRY = """
#include <stdint.h>
#include <string.h>
typedef struct { int32_t type; uint32_t padding; int64_t value; } Argument;
typedef int Function(void *, const Argument *, int32_t, Argument *);
Function %(declared)s;
static Function *const kernels[] = {%(listed)s};
int __tvm_ffi_run(void *self, const Argument *arguments, int32_t count, Argument *result) {
  const int64_t *table = (const int64_t *)(intptr_t)arguments[4].value;
  for (int64_t stage = 0; stage < arguments[5].value; stage++) {
    int64_t row[%(row)d];
    Argument given[7];
    memcpy(row, table + stage * %(row)d, sizeof row);
    memcpy(given, arguments, sizeof given);
    Function *kernel = kernels[row[0] < 0 ? 0 : row[0]];
    if (row[0] > 0) row[0] = 0;
    given[4].value = (int64_t)(intptr_t)row;
    given[5].value = 1;
    int failed = kernel(self, given, count, result);
    if (failed) return failed;
  }
  return 0;
}
"""


class KernelLibrary:
    """Stands in for `build_library`; keeps what it built in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runtime = folder, folder / "runtime.o"
        self.objects: dict[str, Path] = {}

    def __call__(self, program: Program, target: Target, path: Path) -> None:
        """Write the library of `program` to `path`; always for the same target."""
        if shutil.which("objcopy") is None:
            codegen.build_library(program, target, path)
            return
        if not self.runtime.exists():
            codegen.build_runtime(target, self.runtime)
        objects = dict.fromkeys(self._built(kernel, target) for kernel in program.kernels)
        names = [self._built(kernel, target).stem for kernel in program.kernels]
        entry = self.folder / "entry.c"
        sizes = {"declared": ", ".join(one.stem for one in objects), "listed": ", ".join(names), "row": ROW}
        entry.write_text(ENTRY % sizes)
        codegen.link((*objects, self.runtime, entry), path)

    def _built(self, kernel: object, target: Target) -> Path:
        """The kernel's object file, whose function is named as the file is."""
        key = repr(kernel)
        if key not in self.objects:
            path = self.folder / f"kernel_{len(self.objects)}.o"
            codegen.generate([kernel], target, path)
            subprocess.run(["objcopy", "--redefine-sym", f"__tvm_ffi_run={path.stem}", path], check=True)
            self.objects[key] = path
        return self.objects[key]
