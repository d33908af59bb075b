"""Files of every architecture, compiled: native code computes what transformers computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import intaglio

TinyFamily = Callable[..., tuple[Path, Any]]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3"])
def test_compiled_equals_transformers(tiny_family: TinyFamily, family: str) -> None:
    torch.set_num_threads(1)
    path, model = tiny_family(family, quantization="Q8_0")
    ids = np.random.default_rng(2).integers(0, 300, (1, 29))
    with torch.no_grad():
        wanted = model(torch.from_numpy(ids)).logits.numpy()[0]

    session = intaglio.compile(path, plan="keep:a16", context=33).session
    chunks = [ids[0, :17], *ids[0, 17:, None]]
    found = [session.extend(chunk.tolist()) for chunk in chunks]

    # Single tokens are taken as 16-bit fixed point before quantised weights.
    np.testing.assert_allclose(np.stack(found), wanted[16:], atol=5e-4 * float(np.abs(wanted).max()))
