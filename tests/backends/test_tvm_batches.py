"""What stands against batches, and which rows of a table they choose."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from intaglio.backends.tvm.batches import refuse_batches, table_sizes
from intaglio.backends.tvm.regions import ForeignRegion
from intaglio.compiler.errors import UnsupportedModelError


def region(site: str, *own: str) -> ForeignRegion:
    """A region of rows `x`, which wants `own` besides."""
    values = {name: ir.Value(name=name) for name in ("x", "input_ids", *own)}
    graph = ir.Graph(list(values.values()), [], nodes=[], name=site, opset_imports={"": 25})
    model = ir.Model(graph, ir_version=11)
    return ForeignRegion(site, model, (values["x"],), (), (), ("no kernel",))


def test_regions_of_one_sequence_are_refused_together() -> None:
    regions = [region("rows"), region("clock", "position"), region("memory", "key_cache.0", "position")]
    refuse_batches(regions, 1)
    refuse_batches(regions[:1], 8)
    with pytest.raises(UnsupportedModelError, match="no batches of 8") as caught:
        refuse_batches(regions, 8)
    assert caught.value.problems == (
        "clock needs position of one sequence; compile with batch=1",
        "memory needs key_cache.0, position of one sequence; compile with batch=1",
    )


@pytest.mark.parametrize(
    ("chunk", "batch", "coarse", "sizes"),
    [
        (512, 1, False, {"decode": 1, "prefill": 512, "score": 64, "short": 64}),
        (1, 4, False, {"decode": 1, "prefill": 2, "score": 2, "batch": 4}),
        (64, 64, True, {"decode": 1, "prefill": 64, "score": 64, "batch": 64}),
        (100, 2, True, {"decode": 1, "prefill": 100, "score": 64, "short": 64, "batch": 2, "review": 100}),
    ],
)
def test_sizes_of_tables(chunk: int, batch: int, coarse: bool, sizes: dict[str, int]) -> None:
    assert dict(table_sizes(chunk, batch, coarse_prefill=coarse)) == sizes
