"""Opening a model file in onnxruntime: options, and its errors as ours."""

from __future__ import annotations

from pathlib import Path

import onnxruntime

from intaglio.compiler.errors import ModelError, OptionError, UnsupportedModelError

_CONFIGURATION = {
    "session.inter_op.allow_spinning": "0",
    # Left to itself, onnxruntime rounds activations to int8 wherever it fuses a 4-bit weight into a product.
    "session.qdq_matmulnbits_accuracy_level": "1",
}
_ERRORS_ONLY = 3

state = onnxruntime.capi.onnxruntime_pybind11_state


# Idle threads sleep: a spinning pool steals the cores of whatever runs beside it. Where a model's calls gain
# by it, threads may spin between the nodes of a call, and sleep when it ends.
_SPINNING = {
    False: {"session.intra_op.allow_spinning": "0"},
    True: {"session.intra_op.allow_spinning": "1", "session.force_spinning_stop": "1"},
}


def open_session(path: Path, threads: int, *, spinning: bool = False) -> onnxruntime.InferenceSession:
    """The model file `path` on the CPU, with `threads` threads; its weights stay mapped.

    With `spinning`, threads wait for each other actively during a call.

    Raises `OptionError` for fewer than one thread, `UnsupportedModelError` where onnxruntime has no kernel,
    `ModelError` where it refuses the model for another reason.
    """
    if threads < 1:
        raise OptionError(f"[onnxruntime] threads={threads}; use at least 1")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    for key, value in {**_CONFIGURATION, **_SPINNING[spinning]}.items():
        options.add_session_config_entry(key, value)
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except state.NotImplemented as error:
        raise UnsupportedModelError(
            "[onnxruntime] there is no kernel for part of the model", [str(error)]
        ) from error
    except Exception as error:
        raise ModelError(f"[onnxruntime] the model cannot be loaded: {error}") from error
