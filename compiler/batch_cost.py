"""v(M): what M rows cost on this machine, over the cost of one, measured on the compiled model itself.

Rows are tokens of as many sequences up to the batch that the model was compiled for, and beyond that tokens
of one sequence, as drafts have them. From it batches and lengths of drafts are chosen.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from intaglio.compiler.manifest import MANIFEST, Manifest

if TYPE_CHECKING:
    from intaglio.compiler.compiled_model import CompiledModel

ROWS = (1, 2, 4, 8, 16, 32, 64)
POSITION = 32  # tokens before those that are timed
BUDGET = 1.0  # seconds, besides what a round takes
ROUNDS = (2, 20)  # at least, at most
TRIES = 16  # of one row in a round


def with_batch_cost(compiled: CompiledModel) -> CompiledModel:
    """Measure a language model's v(M), and write it into its manifest; graphs are left as they are."""
    if compiled.manifest.kind != "decoder":
        return compiled
    seconds = measure(compiled.session.time_rows, compiled.session.capacity)
    compiled.manifest = recorded(compiled.manifest, seconds, compiled.threads)
    (compiled.folder / MANIFEST).write_text(compiled.manifest.to_json(), encoding="utf-8")
    return compiled


def measure(time_rows: Callable[[int, int], float], capacity: int) -> dict[int, float]:
    """The fewest seconds that each number of rows took.

    Args:
        time_rows: (rows, tokens before them) → seconds.
        capacity: most tokens of a sequence; more rows are not measured.
    """
    position = min(POSITION, capacity // 2)
    rows = [one for one in ROWS if position + one <= capacity]
    best = dict.fromkeys(rows, float("inf"))
    least, most = ROUNDS
    start = time.perf_counter()
    for index in range(most):
        if index >= least and time.perf_counter() - start > BUDGET:
            break
        # Interleaved, so that a slow phase of the machine does not fall on one number alone.
        for one in rows:
            # As often as costs little: the fewest seconds of few tries would be those of a disturbed machine.
            tries = [time_rows(one, position) for _ in range(max(1, TRIES // one))]
            best[one] = min(best[one], *tries)
    return best


def recorded(manifest: Manifest, seconds: dict[int, float], threads: int) -> Manifest:
    """`manifest` with v(M)."""
    ratios = {str(rows): taken / seconds[1] for rows, taken in seconds.items()}
    return dataclasses.replace(
        manifest, batch_cost=ratios, one_row_seconds=seconds[1], batch_cost_threads=threads
    )


def described(manifest: Manifest) -> str:
    """A line for people."""
    ratios = ", ".join(f"{rows}: {ratio:.2f}" for rows, ratio in manifest.batch_cost.items())
    return (
        f"cost of M rows over one ({manifest.one_row_seconds * 1e3:.2f} ms, "
        f"{manifest.batch_cost_threads} threads): {ratios}"
    )
