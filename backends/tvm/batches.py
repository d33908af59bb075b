"""Which tables a program has, and what stands against batches."""

from __future__ import annotations

from collections.abc import Sequence

from intaglio.backends.tvm.regions import ForeignRegion
from intaglio.backends.tvm.tables import FEW_ROWS
from intaglio.compiler.errors import UnsupportedModelError

REVIEW_ROWS = 2 * FEW_ROWS  # just more than the kernels for a few rows take


def table_sizes(chunk: int, batch: int, *, coarse_prefill: bool) -> list[tuple[str, int]]:
    """Names of the tables of a program, and the most tokens that each takes.

    Args:
        chunk: tokens of a prompt that are computed at once.
        batch: sequences that are extended together.
        coarse_prefill: whether prompts are computed from coarser weights, which is reviewed apart.
    """
    sizes = [("decode", 1), ("prefill", max(2, chunk)), ("score", max(2, min(chunk, FEW_ROWS)))]
    if chunk > FEW_ROWS:
        sizes.append(("short", FEW_ROWS))
    if batch > 1:
        sizes.append(("batch", batch))
    if coarse_prefill and chunk > FEW_ROWS:
        sizes.append(("review", min(chunk, REVIEW_ROWS)))
    return sizes


def refuse_batches(foreign: Sequence[ForeignRegion], batch: int) -> None:
    """Raise `UnsupportedModelError` where several sequences are wanted, and onnxruntime cannot take them.

    What it computes of rows alone does not depend on whose they are; positions and caches are those of one
    sequence.
    """
    if batch == 1:
        return
    problems = []
    for region in foreign:
        rows = {"input_ids", *(str(one.name) for one in region.inputs)}
        own = [str(one.name) for one in region.model.graph.inputs if one.name not in rows]
        if own:
            problems.append(f"{region.site} needs {', '.join(own)} of one sequence; compile with batch=1")
    if problems:
        raise UnsupportedModelError(f"lower: no batches of {batch} sequences", problems)
