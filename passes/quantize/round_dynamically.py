"""Rounding activations to bytes with a range found in every call, where they meet quantised weights."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from intaglio.passes.linears import Linear
from intaglio.passes.quantize.sites import linears_of
from intaglio.passes.result import Applied, Certificate, Declined, PassResult
from intaglio.passes.rewriting import insert, made_by, sizes

FLOAT = ir.DataType.FLOAT
HALF_A_STEP = 1 / 510  # of the range: 256 codes


@dataclass(frozen=True)
class RoundDynamically:
    """`MatMul(x, Transpose(W))` → `MatMul(D(Q(x)), Transpose(W))`, Q being `DynamicQuantizeLinear`: unsigned
    bytes, one scale and zero point for the whole tensor. Layers that read the same `x` share one Q.

    Exceptions:
    1. `W` is stored in floating point: declined, since integer products need integer weights.
    2. The activations are rounded already: declined, twice is once too often.
    """

    sites: frozenset[str]
    name: str = "round_dynamically"

    def __call__(self, model: ir.Model) -> PassResult:
        """Round the inputs of all named sites; raises `OptionError` where a name is no site."""
        accounts: list[Applied | Declined] = []
        shared: dict[ir.Value, ir.Value] = {}
        for linear in linears_of(model, self.sites, self.name):
            if problem := _problem(linear):
                accounts.append(Declined(self.name, linear.site, problem))
                continue
            value = linear.input
            rounded = shared.setdefault(value, shared.get(value) or _round(linear))
            linear.matmul.replace_input_with(0, rounded)
            accounts.append(
                Applied(self.name, linear.site, "input in bytes, range found in every call", _BOUND)
            )
        return PassResult.of(model, accounts)


_BOUND = Certificate(
    "largest |error| of an activation as a part of the range", "by construction", HALF_A_STEP, HALF_A_STEP
)


def _problem(linear: Linear) -> str | None:
    if not linear.weight.quantized:
        return f"its weights are {linear.weight.format}: activations stay in floating point"
    if linear.quantize is not None or made_by(linear.input, "DequantizeLinear") is not None:
        return "its activations are rounded already"
    return None


def _round(linear: Linear) -> ir.Value:
    value, name = linear.input, f"{linear.site}.input"
    codes = insert(linear.matmul, "DynamicQuantizeLinear", [value], name=f"{name}.codes", outputs=3)
    kinds = (ir.DataType.UINT8, FLOAT, ir.DataType.UINT8)
    for output, kind, shape in zip(codes.outputs, kinds, (sizes(value), [], []), strict=True):
        output.type = ir.TensorType(kind)
        output.shape = None if shape is None else ir.Shape(shape)
    node = insert(linear.matmul, "DequantizeLinear", list(codes.outputs), name=f"{name}.rounded")
    result = node.outputs[0]
    result.type, result.shape = ir.TensorType(FLOAT), value.shape
    return result
