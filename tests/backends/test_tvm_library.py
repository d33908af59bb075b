"""The C runtime around code that fails, and around code that counts who runs it."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path

import numpy as np
import pytest

from intaglio.backends.tvm import codegen
from intaglio.backends.tvm.library import Library
from intaglio.backends.tvm.program import ROW
from intaglio.compiler.errors import CodegenError
from intaglio.cost_models import host_target

# In place of a kernel: counts its calls by worker in its row, and fails where the row asks for it.
CODE = r"""
#include <stdint.h>
typedef struct { int32_t type; uint32_t padding; int64_t value; } Argument;
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count);
int count_calls(void *self, const Argument *arguments, int32_t count, Argument *result) {
  int64_t worker = arguments[0].value, *row = (int64_t *)(intptr_t)arguments[4].value;
  row[worker + 4]++;
  if (worker != row[3]) return 0;
  const char *parts[] = {": on ", "purpose"};
  TVMFFIErrorSetRaisedFromCStrParts("Failure", parts, 2);
  return -1;
}
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    (folder / "code.c").write_text(CODE)
    compiler = [codegen.c_compiler(), "-O1", "-fPIC", "-c"]
    subprocess.run([*compiler, str(folder / "code.c"), "-o", str(folder / "code.o")], check=True)
    codegen.build_runtime(host_target(), folder / "runtime.o")
    codegen.link((folder / "code.o", folder / "runtime.o"), ["count_calls"], folder / "code.so")
    return folder / "code.so"


def table_that_fails_in(worker: int) -> np.ndarray:
    table = np.zeros((1, ROW), np.int64)
    table[0, 1], table[0, 3] = 1, worker
    return table


@pytest.mark.parametrize("worker", [0, 1])
def test_a_failure_of_any_worker_is_told(path, worker):
    """Also where TVM, which exports a function of the same name for it, is in the process."""
    importlib.import_module("tvm")
    library, table = Library(path, 2), table_that_fails_in(worker)
    for _ in range(2):
        with pytest.raises(CodegenError, match="Failure: on purpose"):
            library.run(table, 1, 0)
    table[0, 3] = -1
    library.run(table, 1, 0)
    library.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_every_worker_runs_every_call_once(path, threads):
    """Many short calls, with the calling thread on any CPU and on its own."""
    library, table = Library(path, threads), table_that_fails_in(-1)
    for _ in range(200):
        library.run(table, 1, 0)
    with library.pinned():
        for _ in range(200):
            library.run(table, 1, 0)
    assert table[0, 4 : threads + 4].tolist() == [400] * threads
    assert not table[0, threads + 4 :].any()
    library.close()


def test_marks_are_in_order(path):
    library, marks = Library(path, 1), np.zeros(2, np.int64)
    library.run(table_that_fails_in(-1), 1, 0, marks)
    assert 0 < marks[0] <= marks[1]
    library.close()
