"""Attention over whole sequences, and rows chosen by indices, against their references."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from intaglio.compiler.errors import CodegenError
from intaglio.kernels.attention_whole.kernel import Layout, WholeAttention
from intaglio.kernels.attention_whole.reference import whole_attention
from intaglio.kernels.gather.kernel import GatherRows
from intaglio.kernels.gather.reference import gather_rows

Run = Callable[..., dict[str, np.ndarray]]
TOLERANCE = 5e-6  # of the largest result: float32 sums, and an exponential of 4e-6 far from 0


def attention(
    sequences: int, heads: int, kv_heads: int, queries: int, keys: int, dims: tuple[int, int], **more: Any
) -> WholeAttention:
    """Heads side by side in a token's row, as linear layers leave them."""
    head, value = dims
    return WholeAttention(
        sequences,
        heads,
        kv_heads,
        queries,
        keys,
        head,
        value,
        0.3,
        Layout(queries * heads * head, head, heads * head),
        Layout(keys * kv_heads * head, head, kv_heads * head),
        Layout(keys * kv_heads * value, value, kv_heads * value),
        Layout(queries * heads * value, value, heads * value),
        **more,
    )


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("sizes", "mask", "causal"),
    [
        ((1, 2, 2, 7, 7, (16, 16)), "", False),
        ((2, 4, 2, 13, 37, (24, 32)), "bool", False),
        ((3, 2, 1, 1, 5, (8, 80)), "float", False),
        ((1, 3, 3, 33, 33, (32, 64)), "", True),
        ((2, 12, 12, 16, 64, (32, 32)), "float", False),
    ],
)
def test_attention_equals_the_reference(
    run_kernel: Run,
    random: np.random.Generator,
    nan: Callable[..., np.ndarray],
    sizes: tuple[Any, ...],
    mask: str,
    causal: bool,
    workers: int,
) -> None:
    sequences, heads, kv_heads, queries, keys, (head, value) = sizes
    layout = Layout(queries * keys, 0, keys) if mask else Layout(0, 0, 0)
    kernel = attention(*sizes, mask=mask, mask_layout=layout, causal=causal)
    q, k, v = (
        random.standard_normal(shape).astype(np.float32)
        for shape in (
            (sequences, queries, heads, head),
            (sequences, keys, kv_heads, head),
            (sequences, keys, kv_heads, value),
        )
    )
    masks = {
        "": None,
        "bool": random.random((sequences, 1, queries, keys)) < 0.6,
        "float": random.standard_normal((sequences, 1, queries, keys)).astype(np.float32),
    }[mask]
    if mask == "bool":
        masks[:, :, 0] = False  # a query that sees nothing takes the mean
    buffers = {
        "query": q,
        "key": k,
        "value": v,
        "scratch": nan(workers, kernel.scratch_floats),
        "result": nan(sequences, queries, heads, value),
    }
    if masks is not None:
        buffers["mask"] = masks.view(np.uint8) if mask == "bool" else masks
    found = run_kernel(kernel, buffers, workers=workers)["result"]
    wanted = whole_attention(*(one.swapaxes(1, 2) for one in (q, k, v)), 0.3, masks, causal).swapaxes(1, 2)
    assert np.abs(found - wanted).max() < TOLERANCE * np.abs(wanted).max()


def test_sizes_that_do_not_fit_are_told_at_once() -> None:
    with pytest.raises(CodegenError, match=r"3 heads do not share 2.*values of 17"):
        attention(1, 3, 2, 4, 4, (16, 17))


@pytest.mark.parametrize("index", ["int32", "int64"])
@pytest.mark.parametrize("columns", [5, 32, 39])
def test_rows_are_chosen(
    run_kernel: Run, random: np.random.Generator, nan: Callable[..., np.ndarray], columns: int, index: str
) -> None:
    table = random.standard_normal((11, columns)).astype(np.float32)
    chosen = np.array([0, 10, -1, 3, -11, 40, -40], index)
    stride = columns + 3
    kernel = GatherRows(11, columns, columns, stride, index)
    buffers = {"table": table, "index": chosen, "result": nan(len(chosen), stride)}
    found = run_kernel(kernel, buffers, count=len(chosen), workers=2)["result"][:, :columns]
    assert np.array_equal(found, gather_rows(table, chosen))
