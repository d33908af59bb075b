"""The front end for ONNX: files, `onnx.ModelProto` and `onnx_ir.Model`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from intaglio.compiler.frontends.frontend import TraceOptions
from intaglio.compiler.frontends.traced import Traced


class OnnxFrontend:
    """Reads `.onnx` files with the data beside them, and models in memory, which it leaves alone."""

    name = "ONNX"
    accepts = "an .onnx file, an onnx.ModelProto or an onnx_ir.Model"
    options = frozenset({"example_inputs"})  # they are for what comes after tracing

    def claims(self, model: object) -> bool:
        """Whether `model` is a file named `.onnx`, or a model in memory; onnx is not imported to find out."""
        if isinstance(model, Path):
            return model.suffix.lower() == ".onnx" and model.is_file()
        return _is(model, "onnx", "ModelProto") or _is(model, "onnx_ir", "Model")

    def trace(self, model: Any, options: TraceOptions) -> Traced:
        """The graph, called by names of inputs; it may be no decoder, and has no tokenizer.

        Raises `ModelFileError` for broken models and `UnsupportedModelError` for what cannot be compiled.
        """
        del options  # tracing needs none
        from intaglio.compiler.frontends.onnx.trace import trace_onnx  # onnx takes half a second to import

        traced, source = trace_onnx(model)
        return Traced(traced, None, None, source)


def _is(model: object, module: str, kind: str) -> bool:
    found = getattr(sys.modules.get(module), kind, None)
    return found is not None and isinstance(model, found)
