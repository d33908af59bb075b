"""The steps from an ONNX model, as it comes, to a graph that passes can work on."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

from intaglio.compiler.frontends.onnx.carry_dequantized_weights import CarryDequantizedWeights
from intaglio.compiler.frontends.onnx.carry_matmul_n_bits import CarryMatMulNBits
from intaglio.compiler.frontends.onnx.carry_quantized_gemm import CarryQuantizedGemm
from intaglio.compiler.frontends.onnx.importing import fix_names, tidy
from intaglio.compiler.frontends.onnx.inference import infer
from intaglio.compiler.frontends.onnx.opset import convert_opset
from intaglio.compiler.frontends.onnx.reading import read_file, read_model, read_model_proto
from intaglio.compiler.frontends.traced import Source
from intaglio.compiler.ir.rules import OPSET_KEPT, QUANTIZATION_KEPT
from intaglio.passes.result import run_passes

_CARRYING = (CarryMatMulNBits(), CarryDequantizedWeights(), CarryQuantizedGemm())


def trace_onnx(model: Path | onnx.ModelProto | ir.Model) -> tuple[ir.Model, Source]:
    """Read, check, put in order, infer types, convert to opset 25, write quantised weights as our IR does.

    Quantised weights that stay as they are, are named with the reason in the metadata
    `intaglio.quantization_kept`.

    Raises `ModelFileError` and `UnsupportedModelError`, which list everything that is wrong.
    """
    traced, source = _read(model)
    tidy(traced)
    infer(traced, name=source.name)
    convert_opset(traced)
    if OPSET_KEPT not in traced.metadata_props:
        _carry_quantized(traced)
    fix_names(traced)
    return traced, source


def _carry_quantized(model: ir.Model) -> None:
    declined = run_passes(model, _CARRYING).declined
    if declined:
        reasons = [f"{one.site}: {one.reason}" for one in declined]
        model.metadata_props[QUANTIZATION_KEPT] = "; ".join(reasons)


def _read(model: Path | onnx.ModelProto | ir.Model) -> tuple[ir.Model, Source]:
    if isinstance(model, Path):
        return read_file(model)
    return read_model_proto(model) if isinstance(model, onnx.ModelProto) else read_model(model)
