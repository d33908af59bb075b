"""Weight-only quantisation by rounding to the nearest code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.passes.linears import Linear
from intaglio.passes.quantize.formats import WeightFormat
from intaglio.passes.quantize.rounding import Rounded, round_block
from intaglio.passes.quantize.sites import first_reader, linears_of, replace_weight
from intaglio.passes.result import Applied, Certificate, Declined, PassResult
from intaglio.passes.rewriting import remove_unused
from intaglio.passes.spool import Spool
from intaglio.passes.store_weight import store_weight
from intaglio.passes.weights import Float32, Weight


@dataclass(frozen=True)
class RoundWeights:
    """`MatMul(x, Transpose(W))` → the same with `W` dequantised from rounded codes, per site.

    Exceptions:
    1. The weight is in the wanted format already: it stays as it is, exactly.
    2. The group does not divide the inputs K of the layer: declined.
    3. A weight is not finite, or a scale or minimum exceeds float16: declined.
    A table that the embedding shares is rounded for both. Rows are read, rounded and written to a temporary
    file some at a time, so that neither the weights nor the codes are ever in memory as a whole.
    Each site gets two certificates: the relative Frobenius error, and the largest error as a part of what
    rounding to the stored grid allows.
    """

    formats: Mapping[str, WeightFormat] = field(default_factory=dict)
    name: str = "round_weights"

    def __call__(self, model: ir.Model) -> PassResult:
        """Round the weights of all named sites; raises `OptionError` where a name is no site."""
        accounts: list[Applied | Declined] = []
        spool = Spool()
        for linear in linears_of(model, self.formats, self.name):
            accounts += self._round(model, linear, self.formats[linear.site], spool)
        remove_unused(model)
        return PassResult.of(model, accounts)

    def _round(
        self, model: ir.Model, linear: Linear, form: WeightFormat, spool: Spool
    ) -> list[Applied | Declined]:
        weight, columns = linear.weight, linear.weight.shape[1]
        if weight.format == stored_format(form, columns):
            return []  # exception 1
        if columns % (form.group or columns):
            reason = f"group {form.group} of {form} does not divide the layer's {columns} inputs"
            return [Declined(self.name, linear.site, reason)]  # exception 2
        rounded = _rounded(weight, form, spool)
        if rounded is None:
            reason = f"{form} keeps scales and minima in float16, and a weight is too large for that"
            return [Declined(self.name, linear.site, reason)]  # exception 3
        parts, certificates = rounded
        before, block = first_reader(model.graph, linear), form.group or columns
        note = replace_weight(linear, store_weight(model, before, f"{linear.site}.{form}", parts, block))
        detail = f"{weight.format} → {form}{note}"
        return [Applied(self.name, linear.site, detail, one) for one in certificates]


def stored_format(form: WeightFormat, columns: int) -> str:
    """`Weight.format` of a weight with `columns` inputs rounded to `form`."""
    codes = _codes_type(form).name.lower()
    offsets = {"symmetric": "", "asymmetric": f", {codes}", "minimum": ", float16"}
    kind = "affine" if form.scheme == "minimum" else "symmetric"
    return f"{kind} {codes}, float16{offsets[form.scheme]} in blocks of {form.group or columns}"


def _codes_type(form: WeightFormat) -> ir.DataType:
    signed = form.scheme == "symmetric"
    if form.bits == 4:
        return ir.DataType.INT4 if signed else ir.DataType.UINT4
    return ir.DataType.INT8 if signed else ir.DataType.UINT8


def _rounded(
    weight: Weight, form: WeightFormat, spool: Spool
) -> tuple[dict[str, ir.TensorProtocol], tuple[Certificate, Certificate]] | None:
    """What is stored of the rounded weight, and how far that is from the weight; `None`: exception 3."""
    meter, scales, offsets = _Meter(), [], []

    def codes() -> Iterator[NDArray[np.integer]]:
        for rows in weight.rows():
            grouped = rows.reshape(len(rows), -1, form.group or rows.shape[1])
            rounded = round_block(grouped, form)
            meter.add(grouped, rounded)
            scales.append(rounded.scale)
            offsets.append(rounded.offset)
            yield rounded.codes

    stored = spool.store(codes(), _codes_type(form), weight.shape)
    if not meter.is_finite:
        return None
    parts = {"codes": stored, "scale": _joined(spool, scales, ir.DataType.FLOAT16)}
    if form.scheme == "asymmetric":
        parts["zero_point"] = _joined(spool, offsets, _codes_type(form))
    if form.scheme == "minimum":
        parts["minimum"] = _joined(spool, offsets, ir.DataType.FLOAT16)
    return parts, meter.certificates(f"all {'×'.join(map(str, weight.shape))} weights")


def _joined(spool: Spool, blocks: Sequence[NDArray[Any] | None], dtype: ir.DataType) -> ir.TensorProtocol:
    arrays = [one for one in blocks if one is not None]
    return spool.store(arrays, dtype, (sum(len(one) for one in arrays), *arrays[0].shape[1:]))


@dataclass
class _Meter:
    """Sums up errors over blocks of rows."""

    squared_error: float = 0.0
    squared_norm: float = 0.0
    largest: float = 0.0
    is_finite: bool = True

    def add(self, weights: Float32, rounded: Rounded) -> None:
        self.is_finite = self.is_finite and rounded.is_finite
        if not self.is_finite:
            return
        error = rounded.values - weights
        self.squared_error += float(np.vdot(error, error))
        self.squared_norm += float(np.vdot(weights, weights))
        part = np.abs(error).max(-1) / np.maximum(rounded.bound, np.finfo(np.float32).tiny)
        self.largest = max(self.largest, float(part.max()))

    def certificates(self, probe: str) -> tuple[Certificate, Certificate]:
        relative = (self.squared_error / self.squared_norm) ** 0.5 if self.squared_norm else 0.0
        return (
            Certificate("relative Frobenius error of the weight", probe, relative, float("inf")),
            Certificate("largest |error| over the bound of rounding", probe, self.largest, 1.0),
        )
