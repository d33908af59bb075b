"""Coarser weights in products of many tokens: certified here, carried out by the kernels of prefill."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from intaglio.compiler.errors import OptionError
from intaglio.compiler.ir.functions import DOMAIN
from intaglio.passes.linears import Linear, find_linears
from intaglio.passes.quantize.formats import PREFILL_FORMATS, PrefillFormat
from intaglio.passes.result import Applied, Certificate, Declined, PassResult
from intaglio.passes.rewriting import is_op
from intaglio.passes.weights import Float32

COARSEN_PREFILL = "coarsen_prefill"
GATED = ("SwiGLU", "GeGLU")
LARGEST = 127
TOLERANCE = 0.02
PROBE_ROWS = 64


@dataclass(frozen=True)
class CoarsenPrefill:
    """Products of many tokens take W rounded to one symmetric 8-bit grid per row; those of one token take W.

    The graph says what holds for one token, and stays as it is: the grids differ with the number of tokens,
    which no graph of ours tells apart. What a row loses is certified: relative error of the rounded weight.

    int8 does so for all layers, int8-gates for those before gated units.

    Exceptions:
    1. exact: nothing changes.
    2. W is stored in floating point, or its activations are not rounded: its products stay exact.
    3. W has one scale per row: there is nothing to gain: declined.
    4. The head, which is the last layer, is computed for one token of a prompt: its products stay exact.
    Raises `OptionError` for another format.
    """

    format: PrefillFormat
    name: str = COARSEN_PREFILL

    def __post_init__(self) -> None:
        if self.format not in PREFILL_FORMATS:
            raise OptionError(f"{self.name}: {self.format!r} is not one of {', '.join(PREFILL_FORMATS)}.")

    def __call__(self, model: ir.Model) -> PassResult:
        """Certify every layer that prefill computes on the coarser grid."""
        if self.format == "exact":
            return PassResult(model)
        linears = [
            one for one in find_linears(model)[:-1] if one.weight.quantized and one.quantize is not None
        ]
        chosen = [one for one in linears if self.format == "int8" or is_gated(one)]
        return PassResult.of(model, [self._account(one) for one in chosen])

    def _account(self, linear: Linear) -> Applied | Declined:
        if linear.weight.block == linear.weight.shape[1]:
            return Declined(self.name, linear.site, "its weights have one scale per row already")
        rows = next(linear.weight.rows())[:PROBE_ROWS]
        error = float(np.linalg.norm(coarsened(rows) - rows)) / max(float(np.linalg.norm(rows)), 1e-30)
        check = "relative error of the weights in products of many tokens"
        certificate = Certificate(check, f"the first {len(rows)} rows", error, TOLERANCE)
        return Applied(self.name, linear.site, "8 bits per row in prefill", certificate)


def is_gated(linear: Linear) -> bool:
    """Whether the layer's products, or parts of them, go into a gated unit."""
    readers = list(linear.output.consumers())
    split = [one for one in readers if is_op(one, "Split")]
    readers += [reader for one in split for part in one.outputs for reader in part.consumers()]
    return any(is_op(one, kind, domain=DOMAIN) for one in readers for kind in GATED)


def coarsened(weight: Float32) -> Float32:
    """`[rows, columns]` rounded to a symmetric 8-bit grid per row that just holds its largest weight."""
    largest = np.abs(weight).max(axis=1, keepdims=True)
    scale = np.where(largest > 0, largest / np.float32(LARGEST), np.float32(1))
    rounded: Float32 = (np.rint(weight / scale) * scale).astype(np.float32)
    return rounded
