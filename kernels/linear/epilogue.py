"""What becomes of 16 sums: the end of every linear kernel, which spares a pass over the result."""

from __future__ import annotations

from intaglio.kernels import tir
from intaglio.kernels.tir import Expression


def finish(result: Expression, at: list[Expression], sums: list[Expression], epilogue: str) -> None:
    """The epilogue of 16 results: "store", "add" to what is there, or "swiglu" of a gate and an up sum."""
    if epilogue == "swiglu":
        gate, up = (tir.bind(one) for one in sums)
        tir.store(result, at, gate * tir.logistic(gate) * up)
    elif epilogue == "add":
        tir.store(result, at, tir.load(result, at) + sums[0])
    else:
        tir.store(result, at, sums[0])
