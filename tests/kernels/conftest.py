"""Build kernels in this process and run one over NaN-filled buffers."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from intaglio.backends.tvm import codegen
from intaglio.backends.tvm.library import Library
from intaglio.backends.tvm.program import POINTERS, ROW, KernelCode
from intaglio.cost_models import NAMED_TARGETS, Target


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy whose data start at a multiple of 64 bytes."""
    memory = np.zeros(array.nbytes + 4096, np.uint8)  # room for prefetches and padded reads
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.fixture(params=["cpu:x86-64-v3", "cpu:avx512-vnni"])
def target(request: pytest.FixtureRequest) -> Target:
    """Every target with kernels of its own that this machine runs."""
    found = next(target for target in NAMED_TARGETS if target.name == request.param)
    if missing := found.missing_here():
        pytest.skip(f"this machine lacks {', '.join(missing)}")
    return found


class Builder:
    """Builds every kernel once in a session, whatever tests run it on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtimes: dict[Target, Path] = {}
        self.libraries: dict[tuple[Target, Any], Path] = {}

    def library(self, target: Target, kernel: Any) -> Path:
        if (target, kernel) not in self.libraries:
            path = self.folder / f"kernel{len(self.libraries)}.so"
            code = KernelCode(type(kernel).__name__, dataclasses.asdict(kernel))
            codegen.generate((code,), target, path.with_suffix(".o"))
            objects = (path.with_suffix(".o"), self.runtime(target))
            codegen.link(objects, codegen.symbols((code,)), path)
            self.libraries[target, kernel] = path
        return self.libraries[target, kernel]

    def runtime(self, target: Target) -> Path:
        if target not in self.runtimes:
            path = self.folder / f"runtime{len(self.runtimes)}.o"
            codegen.build_runtime(target, path)
            self.runtimes[target] = path
        return self.runtimes[target]


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def run_kernel(builder: Builder, target: Target) -> Callable[..., dict[str, np.ndarray]]:
    """`run_kernel(kernel, buffers, count=…, position=…, workers=…)` → the buffers afterwards."""

    def run(
        kernel: Any,
        buffers: dict[str, np.ndarray],
        *,
        count: int = 1,
        position: int = 0,
        workers: int = 1,
        alias: Mapping[str, str] | None = None,
    ) -> dict[str, np.ndarray]:
        alias = alias or {}  # pointer → the one whose buffer it shares
        arrays = {name: aligned(buffers[name]) for name in kernel.pointers if name not in alias}
        arrays = {name: arrays[alias.get(name, name)] for name in kernel.pointers}
        table = np.zeros((1, ROW), np.int64)
        table[0, POINTERS : POINTERS + len(arrays)] = [array.ctypes.data for array in arrays.values()]
        library = Library(builder.library(target, kernel), workers)
        library.run(table, count, position)
        library.close()
        return arrays

    return run


@pytest.fixture(scope="session")
def emulator() -> ModuleType:
    """`tests/helpers/emulated_instructions.py`."""
    path = Path(__file__).parents[1] / "helpers" / "emulated_instructions.py"
    spec = importlib.util.spec_from_file_location("intaglio_test_helpers_emulated_instructions", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def random() -> np.random.Generator:
    """Seeded."""
    return np.random.default_rng(7)


def nan_filled(*shape: int) -> np.ndarray:
    """A float32 buffer that shows what was not written."""
    return np.full(shape, np.nan, np.float32)


@pytest.fixture
def nan() -> Callable[..., np.ndarray]:
    """`nan(*shape)`: a float32 buffer that shows what was not written."""
    return nan_filled
