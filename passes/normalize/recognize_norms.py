"""Norms, however they were spelled, as `RMSNormalization` and `LayerNormalization`."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from intaglio.passes.normalize.norm_parts import Core, Scaled, read_core, scaled
from intaglio.passes.result import Applied, Declined, PassResult, shortfall
from intaglio.passes.rewriting import (
    count,
    described,
    insert,
    is_op,
    remove_unused,
    site_of,
    sizes,
    supersede,
)

OPS = ("RMSNormalization", "LayerNormalization")


@dataclass(frozen=True)
class RecognizeNorms:
    """`x / sqrt(mean(x²) + ε) · w` → `RMSNormalization(x, w; ε)`, over the last axis.
    `(x - mean(x)) / sqrt(mean((x - mean(x))²) + ε) · w [+ b]` → `LayerNormalization(x, w, b; ε)`.

    The square is `Pow` or `Mul`, the root any of `Sqrt`, `Reciprocal`, `Div` and `Pow` that amount to it.
    A cast of `x` to float32 and back before `w` is applied is the op's own (`stash_type`).

    Exceptions:
    1. The mean is over other axes than the last, or drops it: declined where a root follows.
    2. No constant is added to the mean: declined where a root follows.
    3. What is divided by the root is not what was squared: declined.
    4. There is no weight of one axis: it is 1, for which the size of the last axis must be known.
    5. The weight comes before a cast back from float32: the casts stay around the norm.
    With `expected`, fewer norms than that after the pass are declined.
    """

    expected: int | None = None
    name: str = "recognize_norms"

    def __call__(self, model: ir.Model) -> PassResult:
        """Rewrite every norm found."""
        accounts = [self._from_mean(node) for node in list(model.graph) if is_op(node, "ReduceMean")]
        remove_unused(model)
        found = sum(count(model, one) for one in OPS)
        missing = shortfall(self.name, self.expected, found, "norms")
        return PassResult.of(model, [*missing, *(one for one in accounts if one is not None)])

    def _from_mean(self, mean: ir.Node) -> Applied | Declined | None:
        core = read_core(mean)
        if core is None:
            return None
        whole = scaled(core) if isinstance(core, Core) else core
        if isinstance(whole, str):
            return Declined(self.name, site_of(mean), whole)
        norm = _insert(whole)
        supersede(whole.last, norm)
        return Applied(self.name, site_of(norm), f"{norm.op_type}, epsilon {whole.core.epsilon:.3g}")


def _insert(whole: Scaled) -> ir.Node:
    last, core = whole.last, whole.core
    inputs = [whole.input, whole.weight or _ones(last, core)]
    attributes = {"axis": -1, "epsilon": core.epsilon}
    if not core.centered:
        return _described(last, insert(last, "RMSNormalization", inputs, attributes))
    bias = [whole.bias] if whole.bias is not None else []
    return _described(last, insert(last, "LayerNormalization", [*inputs, *bias], attributes))


def _described(last: ir.Node, norm: ir.Node) -> ir.Node:
    described(last.outputs[0], norm.outputs[0], sizes(last.outputs[0]))
    return norm


def _ones(before: ir.Node, core: Core) -> ir.Value:
    """A weight of ones; exception 4 has made sure that the size is known."""
    size = (sizes(core.input) or [None])[-1]
    assert isinstance(size, int), "read_core declines unknown sizes"
    dtype = before.outputs[0].dtype or core.input.dtype or ir.DataType.FLOAT
    tensor = ir.tensor([1.0] * size, dtype=dtype)
    return insert(before, "Constant", [], {"value": tensor}).outputs[0]
