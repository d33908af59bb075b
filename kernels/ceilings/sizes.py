"""How much the kernels do; apart from their code, so that running a program does not bring TVM."""

from __future__ import annotations

BLOCK = 4096  # bytes that a worker reads at a time

# A product of matrices out of the first cache: 64 steps of 3 vectors and 8 factors are 14 KB.
LANES, TOKENS, PARTS, STEPS = 16, 8, 3, 64
PRODUCTS = {"bytes": 4, "bfloat16": 2, "float": 1}  # multiply-adds of one lane in one step


def operations(product: str) -> int:
    """Of one worker for each count of `MultiplyInCache(product)`; a multiply-add counts twice."""
    return 2 * PRODUCTS[product] * LANES * TOKENS * PARTS * STEPS
