"""GELU, however it was spelled, as `Gelu`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.passes.normalize.polynomials import Powers, is_close, operands, polynomial
from intaglio.passes.result import Applied, Declined, PassResult
from intaglio.passes.rewriting import described, insert, is_op, remove_unused, site_of, sizes, supersede

CUBIC = 0.044715
INNER: dict[str, dict[Powers, float]] = {  # what goes into erf and tanh, as a polynomial in x
    "Erf": {(1,): math.sqrt(0.5)},
    "Tanh": {(1,): math.sqrt(2 / math.pi), (3,): math.sqrt(2 / math.pi) * CUBIC},
}
OUTER: dict[Powers, float] = {(1, 0): 0.5, (1, 1): 0.5}  # x / 2 + x · f / 2
APPROXIMATE = {"Erf": "none", "Tanh": "tanh"}
REACH = 4  # nodes between erf or tanh and the result


@dataclass(frozen=True)
class RecognizeGelu:
    """`x · ½ · (1 + erf(x / √2))` → `Gelu(x; approximate=none)`, and
    `x · ½ · (1 + tanh(√(2/π) · (x + 0.044715 · x³)))` → `Gelu(x; approximate=tanh)`.

    Factors and terms may stand in any order, powers may be products, and constants may be folded into each
    other: compared are polynomials in `x` and in `erf` or `tanh`, to 1e-4 of each coefficient.
    `x · sigmoid(1.702 · x)` stays as it is: three nodes that every backend has.

    Exceptions:
    1. The argument of `erf` or `tanh` is another polynomial: left without a word, as it may be anything.
    2. The argument is right and the result is not `x · ½ · (1 + …)`: declined.
    """

    name: str = "recognize_gelu"

    def __call__(self, model: ir.Model) -> PassResult:
        """Rewrite every GELU found."""
        functions = [node for node in model.graph if not node.domain and node.op_type in INNER]
        accounts = [one for node in functions if (one := self._around(node)) is not None]
        remove_unused(model)
        return PassResult.of(model, accounts)

    def _around(self, function: ir.Node) -> Applied | Declined | None:
        argument = function.inputs[0]
        assert argument is not None, "a required input of a standard op"
        candidates = [
            one
            for one in operands(argument)
            if is_close(polynomial(argument, [one]), INNER[function.op_type])
        ]
        for source in candidates:
            for last in _after(function, REACH):
                if is_close(polynomial(last.outputs[0], [source, function.outputs[0]]), OUTER):
                    return self._replace(last, source, APPROXIMATE[function.op_type])
        if not candidates:
            return None  # exception 1
        name = function.op_type.lower()
        return Declined(
            self.name, site_of(function), f"{name} of a GELU without x · ½ · (1 + {name}) after it"
        )

    def _replace(self, last: ir.Node, source: ir.Value, approximate: str) -> Applied:
        gelu = insert(last, "Gelu", [source], {"approximate": approximate})
        described(last.outputs[0], gelu.outputs[0], sizes(last.outputs[0]))
        supersede(last, gelu)
        return Applied(self.name, site_of(gelu), f"Gelu, approximate={approximate}")


def _after(node: ir.Node, reach: int) -> Iterator[ir.Node]:
    """The nodes that follow, nearest first."""
    level = [node]
    for _ in range(reach):
        level = [one for before in level for one in before.outputs[0].consumers() if is_arithmetic(one)]
        yield from level


def is_arithmetic(node: ir.Node) -> bool:
    """Whether `node` may be part of a GELU after its `erf` or `tanh`."""
    return any(is_op(node, one) for one in ("Add", "Sub", "Mul", "Div"))
