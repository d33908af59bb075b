"""The steps from an ONNX model, as it comes, to a graph that passes can work on."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from intaglio.compiler.frontends.onnx.importing import tidy
from intaglio.compiler.frontends.onnx.inference import infer
from intaglio.compiler.frontends.onnx.opset import convert_opset
from intaglio.compiler.frontends.onnx.reading import read_file, read_model, read_model_proto
from intaglio.compiler.frontends.traced import Source


def trace_onnx(model: Path | onnx.ModelProto | ir.Model) -> tuple[ir.Model, Source]:
    """Read, check, put in order, infer types, convert to opset 25.

    Raises `ModelFileError` and `UnsupportedModelError`, which list everything that is wrong.
    """
    traced, source = _read(model)
    tidy(traced)
    infer(traced, name=source.name)
    convert_opset(traced)
    NameFixPass()(traced)
    return traced, source


def _read(model: Path | onnx.ModelProto | ir.Model) -> tuple[ir.Model, Source]:
    if isinstance(model, Path):
        return read_file(model)
    return read_model_proto(model) if isinstance(model, onnx.ModelProto) else read_model(model)
