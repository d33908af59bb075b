"""Builds programs of kernels that are each compiled once: many small models share most of theirs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from intaglio.backends.tvm import Program, codegen
from intaglio.backends.tvm.program import KernelCode
from intaglio.cost_models import Target


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
        built = [self._built(kernel, target) for kernel in program.kernels]
        codegen.link((*dict.fromkeys(built), self.runtime), [one.stem for one in built], path)

    def _built(self, kernel: KernelCode, target: Target) -> Path:
        """The kernel's object file, whose function is named as the file is."""
        key = repr(kernel)
        if key not in self.objects:
            path = self.folder / f"kernel_{len(self.objects)}.o"
            codegen.generate([kernel], target, path)
            (symbol,) = codegen.symbols([kernel])
            subprocess.run(["objcopy", "--redefine-sym", f"{symbol}={path.stem}", path], check=True)
            self.objects[key] = path
        return self.objects[key]
