"""Decoders of every architecture compute what transformers computes; files say what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from intaglio.backends.reference import ReferenceSession
from intaglio.compiler.frontends.tracing import trace
from intaglio.compiler.ir.invariants import check

TinyFamily = Callable[..., tuple[Path, Any]]
FAMILIES = ["qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def tokens(batch: int, length: int) -> NDArray[np.int64]:
    return np.random.default_rng(1).integers(0, 300, (batch, length))


def traced_logits(path: Path, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    logits = ReferenceSession(trace(path).model).run({"input_ids": ids})["logits"]
    result: NDArray[np.float32] = logits.numpy()
    return result


def relative_error(path: Path, model: Any, ids: NDArray[np.int64]) -> float:
    with torch.no_grad():
        wanted = model(torch.from_numpy(ids)).logits.numpy()
    return float(np.abs(traced_logits(path, ids) - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("quantization", ["F32", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_transformers(tiny_family: TinyFamily, family: str, quantization: str) -> None:
    path, model = tiny_family(family, quantization=quantization)

    assert relative_error(path, model, tokens(2, 23)) < 1e-5
    check(trace(path).model)
