"""Rounding activations to int8 where they meet quantised weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.compiler.ir.functions import DOMAIN, ensure_function, quantize_activation
from intaglio.passes.linears import Linear
from intaglio.passes.quantize.sites import linears_of
from intaglio.passes.result import Applied, Certificate, Declined, PassResult
from intaglio.passes.rewriting import insert

PROBE_ROWS = 64
TOLERANCE = 0.02


@dataclass(frozen=True)
class QuantizeActivations:
    """`MatMul(x, Transpose(W))` → `MatMul(QuantizeActivation(x; group), Transpose(W))`, per site.

    Layers that read the same `x` with the same group share one node.

    Exceptions:
    1. `W` is stored in floating point: declined, since integer products need integer weights.
    2. The group does not divide K, or does not divide the block of weights that share a scale: declined.
    3. The activations are rounded already: declined, twice is once too often.
    """

    groups: Mapping[str, int] = field(default_factory=dict)
    name: str = "quantize_activations"

    def __call__(self, model: ir.Model) -> PassResult:
        """Round the activations of all named sites; raises `OptionError` where a name is no site."""
        applied, declined = [], []
        shared: dict[tuple[ir.Value, int], ir.Value] = {}
        for linear in linears_of(model, self.groups, self.name):
            group = self.groups[linear.site]
            if problem := _problem(linear, group):
                declined.append(Declined(self.name, linear.site, problem))
                continue
            rounded = shared.get((linear.input, group)) or _round(linear, group)
            shared[linear.input, group] = rounded
            linear.matmul.replace_input_with(0, rounded)
            certificate = _certificate(linear.weight.shape[1], group)
            applied.append(Applied(self.name, linear.site, f"int8 in groups of {group}", certificate))
        if applied:
            ensure_function(model, quantize_activation())
        return PassResult(model, tuple(applied), tuple(declined))


def round_activations(activations: NDArray[np.float32], group: int) -> NDArray[np.float32]:
    """What `intaglio.QuantizeActivation` computes, in the same order of roundings."""
    grouped = activations.reshape(*activations.shape[:-1], -1, group)
    largest = np.abs(grouped).max(-1, keepdims=True)
    inverse = np.float32(127) / np.where(largest == 0, np.float32(1), largest)
    rounded = np.rint(grouped * inverse) * (largest * np.float32(1 / 127))
    result: NDArray[np.float32] = rounded.reshape(activations.shape).astype(np.float32)
    return result


def _problem(linear: Linear, group: int) -> str | None:
    columns, block = linear.weight.shape[1], linear.weight.block
    if not linear.weight.quantized:
        return f"its weights are {linear.weight.format}: activations stay in floating point"
    if columns % group:
        return f"activation group {group} does not divide the layer's {columns} inputs"
    if block % group:
        fitting = f"a8g{math.gcd(group, block)}"
        return f"activation group {group} does not divide the weights' block of {block}; ask for {fitting}"
    if linear.quantize is not None:
        return "its activations are rounded already"
    return None


def _round(linear: Linear, group: int) -> ir.Value:
    node = insert(
        linear.matmul,
        "QuantizeActivation",
        [linear.input],
        {"group": group},
        domain=DOMAIN,
        name=f"{linear.site}.quantize",
    )
    node.outputs[0].type, node.outputs[0].shape = linear.input.type, linear.input.shape
    return node.outputs[0]


def _certificate(columns: int, group: int) -> Certificate:
    probe = np.random.default_rng(0).standard_normal((PROBE_ROWS, columns), np.float32)
    error = np.linalg.norm(round_activations(probe, group) - probe) / np.linalg.norm(probe)
    where = f"{PROBE_ROWS} standard normal vectors of {columns}"
    return Certificate("relative error of the rounded activations", where, float(error), TOLERANCE)
