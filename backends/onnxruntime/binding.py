"""Regions over memory of ours: onnxruntime reads and writes it where it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from intaglio.backends.onnxruntime.opening import open_session
from intaglio.compiler.errors import ModelError

Array = NDArray[np.generic]


class BoundRegion:
    """A region whose inputs and outputs are arrays, row-major, that stay where they are."""

    def __init__(
        self, session: onnxruntime.InferenceSession, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> None:
        self._session, self._arrays = session, (dict(inputs), dict(outputs))  # kept alive
        self._binding = session.io_binding()
        for name, array in inputs.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def run(self) -> None:
        """Read the inputs, and write the outputs. Raises `ModelError` where the run fails."""
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise ModelError(f"[onnxruntime] a region failed: {error}") from error


def bind_region(
    path: Path, inputs: Mapping[str, Array], outputs: Mapping[str, Array], *, threads: int
) -> BoundRegion:
    """Open the region file `path` with `threads` threads over `inputs` and `outputs`, by name.

    Raises `UnsupportedModelError` where onnxruntime has no kernel, `ModelError` where it refuses the region.
    """
    return BoundRegion(open_session(path, threads), inputs, outputs)
