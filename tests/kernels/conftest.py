"""Build kernels in this process and run one over NaN-filled buffers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from intaglio.backends.tvm import codegen
from intaglio.backends.tvm.library import Library
from intaglio.backends.tvm.program import KernelCode
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


class Runner:
    """Builds one kernel and runs it."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.target, self.folder, self.built = target, folder, 0

    def __call__(
        self, kernel: Any, buffers: dict[str, np.ndarray], *, count: int = 1, position: int = 0, workers: int = 1
    ) -> dict[str, np.ndarray]:
        self.built += 1
        path = self.folder / f"kernel{self.built}.so"
        code = KernelCode(type(kernel).__name__, dataclasses.asdict(kernel))
        codegen.generate((code,), self.target, path.with_suffix(".o"))
        codegen.link(path.with_suffix(".o"), self.target, path)
        arrays = {name: aligned(buffers[name]) for name in kernel.pointers}
        table = np.zeros((1, codegen.ROW), np.int64)
        table[0, 2 : 2 + len(arrays)] = [array.ctypes.data for array in arrays.values()]
        library = Library(path, workers)
        library.run(table, count, position)
        library.close()
        return arrays


@pytest.fixture
def run_kernel(target: Target, tmp_path: Path) -> Callable[..., dict[str, np.ndarray]]:
    """`run_kernel(kernel, buffers, count=…, position=…, workers=…)` → the buffers afterwards."""
    return Runner(target, tmp_path)


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
