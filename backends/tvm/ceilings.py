"""The machine's ceilings, measured by kernels that every program carries and by the program's own threads."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from intaglio.backends.tvm.library import Library
from intaglio.backends.tvm.memory import allocate
from intaglio.backends.tvm.program import POINTERS, ROW, KernelCode, Program
from intaglio.compiler.errors import ArtifactError
from intaglio.kernels.ceilings.sizes import BLOCK, LANES, PARTS, STEPS, TOKENS, operations

MEGABYTES, PIECES = 256, 4  # read in turns: many times what caches hold
READINGS = 20
SECONDS = 0.005  # of one reading of a peak
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Ceilings:
    """What the machine could do at best.

    Products are of the target's instructions; where it has none for bytes or bfloat16, of what kernels do
    instead.
    """

    threads: int
    read_bytes_per_second: float
    int8_operations_per_second: float  # a multiply-add counts twice
    bf16_operations_per_second: float
    fp32_operations_per_second: float

    def best_of(self, other: Ceilings) -> Ceilings:
        """The higher of each; for the same number of threads."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Ceilings(*(max(pair) for pair in pairs))


def measure_ceilings(library: Library, program: Program) -> Ceilings:
    """Measure: the upper quartile of twenty readings of 64 MB, and the best of twenty of each peak.

    Readings are as short as a step of decoding: one that another process interrupts says nothing of memory.
    Raises `ArtifactError` where the program lacks the kernels for it.
    """
    with library.pinned():
        return Ceilings(
            library.threads,
            _read_rate(library, _index(program, KernelCode("ReadMemory", {}))),
            *(_peak(library, program, product) for product in ("bytes", "bfloat16", "float")),
        )


def _index(program: Program, kernel: KernelCode) -> int:
    if kernel not in program.kernels:
        raise ArtifactError(f"ceilings: the program has no kernel {kernel.name}; compile again")
    return program.kernels.index(kernel)


def _read_rate(library: Library, kernel: int) -> float:
    """Bytes per second."""
    blocks = MEGABYTES * 1_000_000 // PIECES // BLOCK
    data, result = allocate(PIECES * blocks * BLOCK), allocate(library.threads * LANES * FLOAT)
    data[:] = 1  # pages come into being
    pieces = [data[start * blocks * BLOCK :] for start in range(PIECES)]
    seconds = [
        _seconds(library, kernel, blocks, (pieces[index % PIECES], result)) for index in range(READINGS)
    ]
    return blocks * BLOCK / sorted(seconds)[READINGS // 4]


def _peak(library: Library, program: Program, product: str) -> float:
    """Operations per second of all threads."""
    kernel = _index(program, KernelCode("MultiplyInCache", {"product": product}))
    sizes = (STEPS * PARTS * LANES, STEPS * TOKENS, library.threads * TOKENS * PARTS * LANES)
    buffers = [allocate(size * FLOAT) for size in sizes]
    count = 1
    while (seconds := _seconds(library, kernel, count, buffers)) < SECONDS / 2:
        count *= 2
    best = min(seconds, *(_seconds(library, kernel, count, buffers) for _ in range(READINGS)))
    return operations(product) * count * library.threads / best


def _seconds(library: Library, kernel: int, count: int, buffers: Sequence[NDArray[np.uint8]]) -> float:
    table = allocate(ROW * 8)[: ROW * 8].view(np.int64).reshape(1, ROW)
    table[0, 0] = kernel
    table[0, POINTERS : POINTERS + len(buffers)] = [one.ctypes.data for one in buffers]
    start = time.perf_counter()
    library.run(table, count, 0)
    return time.perf_counter() - start
