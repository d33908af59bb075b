"""Runs an IR model in onnxruntime: functions inlined, weights through a temporary file, exact arithmetic."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import InlinePass

from intaglio.backends.onnxruntime.opening import open_session
from intaglio.backends.onnxruntime.regions import run_named
from intaglio.compiler.errors import OptionError


class OnnxRuntimeSession:
    """`model` in onnxruntime on the CPU, with `threads` threads. The model itself is left as it is.

    Nothing is lowered to forms of onnxruntime's own: what it computes is what the graph says.
    Raises `OptionError` for fewer than one thread, `UnsupportedModelError` where onnxruntime has no kernel,
    `ModelError` where it refuses the model for another reason.
    """

    def __init__(self, model: ir.Model, *, threads: int) -> None:
        if threads < 1:
            raise OptionError(f"[onnxruntime] threads={threads}; use at least 1")
        copy = model.clone()
        InlinePass()(copy)
        with tempfile.TemporaryDirectory(prefix="intaglio-onnxruntime-") as folder:
            path = Path(folder) / "model.onnx"
            ir.save(copy, path, external_data="weights.bin")
            # onnxruntime maps the weights; the mapping outlives the file's name.
            self._session = open_session(path, threads)
        self._outputs = tuple(one.name for one in self._session.get_outputs())
        self._inputs = frozenset(one.name for one in self._session.get_inputs())

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """Outputs by name. Raises `OptionError` for wrong inputs, `ModelError` where the run fails."""
        problems = [f"input {name!r} is missing" for name in sorted(self._inputs - set(inputs))]
        problems += [f"{name!r} is not an input" for name in inputs if name not in self._inputs]
        if problems:
            raise OptionError("[onnxruntime] run: " + "; ".join(problems))
        return run_named(self._session, self._outputs, inputs)
