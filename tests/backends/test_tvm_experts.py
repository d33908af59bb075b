"""Mixtures of experts: for one token, what the router did not choose is not computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from intaglio.backends.onnxruntime import OnnxRuntimeSession, RegionSession, write_region
from intaglio.backends.tvm import NativeSession
from intaglio.backends.tvm.lower import Lowered, lower
from intaglio.compiler.frontends.tracing import trace
from intaglio.compiler.reference_session import GraphSession
from intaglio.cost_models import resolve_target
from intaglio.passes.fuse import fuse
from intaglio.passes.normalize import normalize

EXPERTS, CHOSEN, LAYERS, CAPACITY = 5, 2, 2, 24
SIZES = {"hidden_size": 64, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture(scope="module")
def mixture(quick_build: Callable[..., None], tmp_path_factory: Any) -> tuple[Lowered, Path, Any, list[int]]:
    """What a small Mixtral became, its folder, onnxruntime's logits, and tokens."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("mixture")
    config = transformers.MixtralConfig(
        **SIZES,
        vocab_size=97,
        num_hidden_layers=LAYERS,
        num_local_experts=EXPERTS,
        num_experts_per_tok=CHOSEN,
        max_position_embeddings=64,
    )
    torch.manual_seed(4)
    transformers.MixtralForCausalLM(config).save_pretrained(folder)
    traced = trace(folder)
    model = normalize(traced.model, expected=traced.expected, capacity=CAPACITY).model
    tokens = np.random.default_rng(1).integers(0, 97, CAPACITY).tolist()
    expected = GraphSession(model, OnnxRuntimeSession(model, threads=1)).score(tokens)
    lowered = lower(fuse(model).model, capacity=CAPACITY, chunk=8)
    lowered.write_weights(folder / "weights.bin")
    for region, file in zip(lowered.foreign, lowered.program.foreign, strict=True):
        write_region(region.model, folder, Path(file.file).stem)
    quick_build(lowered.program, resolve_target("cpu"), folder / "program.so")
    return lowered, folder, expected, tokens


def opened(lowered: Lowered, folder: Path, threads: int) -> NativeSession:
    regions = [RegionSession(folder / one.file, threads=1) for one in lowered.program.foreign]
    files = {"weights": folder / "weights.bin", "library": folder / "program.so"}
    return NativeSession(lowered.program, threads=threads, regions=regions, **files)


def test_all_that_an_expert_computes_is_guarded_in_decoding_alone(mixture: Any) -> None:
    tables = {one.name: one for one in mixture[0].program.tables}
    guarded = {stage.site for stage in tables["decode"].stages if stage.guard is not None}
    assert guarded == {
        f"layers.{layer}.mlp.experts.{expert}.{name}"
        for layer in range(LAYERS)
        for expert in range(EXPERTS)
        for name in ("gate_up_proj", "down_proj")
    }
    assert not [stage for name in ("prefill", "score") for stage in tables[name].stages if stage.guard]


@pytest.mark.parametrize("threads", [1, 2])
def test_steps_equal_the_dense_graph(mixture: Any, threads: int) -> None:
    lowered, folder, expected, tokens = mixture
    session = opened(lowered, folder, threads)
    steps = [session.extend([token]) for token in tokens]
    np.testing.assert_allclose(steps, expected, atol=1e-5 * np.abs(expected).max())
    session.reset()
    np.testing.assert_allclose(session.extend(tokens), expected[-1], atol=1e-5 * np.abs(expected).max())


def test_only_the_chosen_experts_run(mixture: Any) -> None:
    """Skipped stages leave no time: two experts' products per layer are in the profile of a step."""
    lowered, folder, _, tokens = mixture
    timed = [site for site, _ in opened(lowered, folder, 2).profile(tokens[:1])]
    assert sum("down_proj" in site for site in timed) == LAYERS * CHOSEN
