"""Weights as plain floating-point numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx_ir as ir

from intaglio.passes.linears import Linear
from intaglio.passes.quantize.formats import FloatType
from intaglio.passes.quantize.sites import first_reader, linears_of, replace_weight
from intaglio.passes.result import Applied, Certificate, PassResult
from intaglio.passes.rewriting import remove_unused
from intaglio.passes.store_weight import store_weight
from intaglio.passes.weights import Weight

STORED_FORMATS: Mapping[FloatType, str] = {"fp32": "float float", "bf16": "float bfloat16"}
BFLOAT16_ERROR = 2.0**-8  # relative; half a step of eight significant bits


@dataclass(frozen=True)
class FloatWeights:
    """`MatMul(x, Transpose(W))` → the same with `W` a float32 initialiser, or a bfloat16 one behind a `Cast`.

    Exceptions:
    1. The weight is stored in that type already: it stays as it is.
    The new tensors are lazy: they are dequantised each time they are read, never retained. A table that the
    embedding shares changes for both.
    """

    types: Mapping[str, FloatType] = field(default_factory=dict)
    name: str = "float_weights"

    def __call__(self, model: ir.Model) -> PassResult:
        """Replace the weights of all named sites; raises `OptionError` where a name is no site."""
        applied = []
        for linear in linears_of(model, self.types, self.name):
            wanted = self.types[linear.site]
            if linear.weight.format == STORED_FORMATS[wanted]:
                continue  # exception 1
            certificate = _certificate(linear.weight, wanted)
            note = replace_weight(linear, _install(model, linear, wanted))
            applied.append(
                Applied(self.name, linear.site, f"{linear.weight.format} → {wanted}{note}", certificate)
            )
        remove_unused(model)
        return PassResult(model, tuple(applied))


def _install(model: ir.Model, linear: Linear, wanted: FloatType) -> ir.Value:
    weight, dtype = linear.weight, ir.DataType.FLOAT if wanted == "fp32" else ir.DataType.BFLOAT16
    tensor = ir.LazyTensor(lambda: _materialize(weight, dtype), dtype, ir.Shape(weight.shape))
    before = first_reader(model.graph, linear)
    return store_weight(model, before, f"{linear.site}.{wanted}", {"plain": tensor}, 0)


def _materialize(weight: Weight, dtype: ir.DataType) -> ir.TensorProtocol:
    result = np.empty(weight.shape, dtype.numpy())
    start = 0
    for rows in weight.rows():
        result[start : start + len(rows)] = rows
        start += len(rows)
    return ir.Tensor(result, dtype)


def _certificate(weight: Weight, wanted: FloatType) -> Certificate:
    probe = f"all {'×'.join(map(str, weight.shape))} weights"
    check = "relative Frobenius error of the weight"
    if wanted == "fp32":
        return Certificate(check, "by construction: dequantised to float32, unrounded", 0.0, 0.0)
    errors, norms = 0.0, 0.0
    for rows in weight.rows():
        error = rows.astype(ml_dtypes.bfloat16).astype(np.float32) - rows
        errors, norms = errors + float(np.vdot(error, error)), norms + float(np.vdot(rows, rows))
    return Certificate(check, probe, (errors / norms) ** 0.5 if norms else 0.0, BFLOAT16_ERROR)
