"""A worker's own stretch of a buffer."""

from __future__ import annotations

from intaglio.kernels import tir
from intaglio.kernels.tir import LANES, Expression, KernelFrame


class Memory:
    """Floats of pointer `name`, `size` for each worker."""

    def __init__(self, frame: KernelFrame, name: str, size: int) -> None:
        self.buffer = frame.buffer(name, (frame.workers * tir.int32(size),), "float32")
        self.base = tir.bind(frame.worker * tir.int32(size))

    def load(self, offset: Expression, lanes: int = LANES) -> Expression:
        """A vector, or a scalar."""
        return tir.load(self.buffer, [self.base + offset], lanes)

    def store(self, offset: Expression, value: Expression) -> None:
        """Write a vector or a scalar."""
        tir.store(self.buffer, [self.base + offset], value)
