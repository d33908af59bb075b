"""Runs an IR model in onnxruntime: functions inlined, weights through a temporary file, exact arithmetic."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnx_ir.passes.common import InlinePass

from intaglio.compiler.errors import ModelError, OptionError, UnsupportedModelError

_CONFIGURATION = {
    # Idle threads sleep: a spinning pool steals the cores of whatever runs beside it.
    "session.intra_op.allow_spinning": "0",
    "session.inter_op.allow_spinning": "0",
    # Left to itself, onnxruntime rounds activations to int8 wherever it fuses a 4-bit weight into a product.
    "session.qdq_matmulnbits_accuracy_level": "1",
}
_ERRORS_ONLY = 3

_state = onnxruntime.capi.onnxruntime_pybind11_state


class OnnxRuntimeSession:
    """`model` in onnxruntime on the CPU, with `threads` threads. The model itself is left as it is.

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
            self._session = _open(path, threads)
        self._outputs = tuple(one.name for one in self._session.get_outputs())
        self._inputs = frozenset(one.name for one in self._session.get_inputs())

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """Outputs by name. Raises `OptionError` for wrong inputs, `ModelError` where the run fails."""
        problems = [f"input {name!r} is missing" for name in sorted(self._inputs - set(inputs))]
        problems += [f"{name!r} is not an input" for name in inputs if name not in self._inputs]
        if problems:
            raise OptionError("[onnxruntime] run: " + "; ".join(problems))
        try:
            results = self._session.run(self._outputs, dict(inputs))
        except _state.InvalidArgument as error:
            raise OptionError(f"[onnxruntime] run: an input does not fit: {error}") from error
        except Exception as error:
            raise ModelError(f"[onnxruntime] run failed: {error}") from error
        return dict(zip(self._outputs, results, strict=True))


def _open(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    for key, value in _CONFIGURATION.items():
        options.add_session_config_entry(key, value)
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except _state.NotImplemented as error:
        raise UnsupportedModelError(
            "[onnxruntime] there is no kernel for part of the model", [str(error)]
        ) from error
    except Exception as error:
        raise ModelError(f"[onnxruntime] the model cannot be loaded: {error}") from error
