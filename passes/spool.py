"""Tensors that passes make, kept in a temporary file and mapped: they take address space, not memory."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import IO

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.compiler.errors import PassError
from intaglio.passes.tensors import pack_nibbles


@dataclass
class Spool:
    """One unnamed file, which goes with the last tensor in it."""

    size: int = 0  # bytes written
    _file: IO[bytes] | None = None
    _mapped: mmap.mmap | None = field(default=None, repr=False)

    def store(
        self, pieces: Iterable[NDArray[np.generic]], dtype: ir.DataType, shape: tuple[int, ...]
    ) -> ir.TensorProtocol:
        """A tensor whose elements are those of `pieces`, one after the other, as they come.

        4-bit types share bytes, the first of two in the lower half: all pieces but the last have an even
        number of elements. Raises `PassError` where the disk is full.
        """
        start = self.size
        for piece in pieces:
            self._write(pack_nibbles(piece) if dtype.bitwidth == 4 else piece.astype(dtype.numpy()))
        size = self.size - start
        return ir.LazyTensor(lambda: self._tensor(start, size, dtype, shape), dtype, ir.Shape(shape))

    def _write(self, array: NDArray[np.generic]) -> None:
        try:
            self._opened().write(np.ascontiguousarray(array).view(np.uint8).data)
        except OSError as error:
            raise PassError(
                f"spool: {tempfile.gettempdir()} cannot take what is made of the weights ({error}): "
                "make room there, or let TMPDIR name another place."
            ) from error
        self.size += array.nbytes

    def _opened(self) -> IO[bytes]:
        # Not in a `with`: it stays open as long as this object, and has no name that could be left behind.
        self._file = self._file or tempfile.TemporaryFile(prefix="intaglio-spool-")  # noqa: SIM115
        return self._file

    def _tensor(self, start: int, size: int, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.TensorProtocol:
        stored = np.frombuffer(self._map(), np.uint8)[start : start + size]
        if dtype.bitwidth == 4:
            return ir.PackedTensor(stored, dtype, shape=ir.Shape(shape))
        return ir.Tensor(stored.view(dtype.numpy()).reshape(shape), dtype)

    def _map(self) -> mmap.mmap:
        """The file as far as it has been written."""
        if self._mapped is None or len(self._mapped) < self.size:
            self._opened().flush()
            self._mapped = mmap.mmap(self._opened().fileno(), self.size, prot=mmap.PROT_READ)
        return self._mapped
