"""What becomes of 16 sums: the end of every linear kernel, which spares a pass over the result."""

from __future__ import annotations

from intaglio.kernels import elementary, tir
from intaglio.kernels.tir import Expression

GATED = ("swiglu", "geglu_erf", "geglu_tanh")  # of a gate and an up sum: act(gate) · up
PLAIN = ("store", "add")  # "add": to what is there


def finish(result: Expression, at: list[Expression], sums: list[Expression], epilogue: str) -> None:
    """The epilogue of 16 results, or of 16 gates and 16 ups."""
    if epilogue in GATED:
        gate, up = (tir.bind(one) for one in sums)
        tir.store(result, at, gated(gate, epilogue) * up)
    elif epilogue == "add":
        tir.store(result, at, tir.load(result, at) + sums[0])
    else:
        tir.store(result, at, sums[0])


def gated(gate: Expression, epilogue: str) -> Expression:
    """The activation of a gated unit: silu, or gelu in either spelling."""
    if epilogue == "geglu_erf":
        return elementary.gelu_erf(gate)
    if epilogue == "geglu_tanh":
        return elementary.gelu_tanh(gate)
    return gate * tir.logistic(gate)
