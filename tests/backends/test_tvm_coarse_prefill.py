"""Prompts from coarser weights (prefill=int8): in which tables, and how far from the exact ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import intaglio
from intaglio.compiler.compiled_decoder import CompiledDecoder

LENGTHS = intaglio.Workload(prefill=96, decode=8)


@pytest.fixture(scope="module")
def pair(
    tiny_gguf: Callable[..., Path], quick_build: Callable[..., None]
) -> tuple[CompiledDecoder, CompiledDecoder]:
    """The tiny llama with exact and with coarser prompts."""
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("intaglio.compiler.pipeline.build_library", quick_build)
        for prefill in ("exact", "int8"):
            plan = f"keep, cache=fp32, prefill={prefill}"
            path = tiny_gguf(quantization="Q4_1", context=256)
            made.append(intaglio.compile(path, plan=plan, workload=LENGTHS, context=224, threads=1))
    return made[0], made[1]


def kernels(compiled: CompiledDecoder, table: str) -> set[str]:
    """The kernels that a table runs."""
    program = compiled.program
    return {program.kernels[stage.kernel].name for stage in program.table(table).stages}


def test_tables(pair):
    exact, coarse = pair
    assert "review" not in [one.name for one in exact.program.tables]
    for table in ("prefill", "review"):
        assert "RequantizedMatrixMatrix" in kernels(coarse, table)
    for table in ("decode", "short", "score"):
        assert kernels(coarse, table) == kernels(exact, table)


def test_prompts_differ_a_little_and_single_tokens_not_at_all(pair):
    exact, coarse = (one.session for one in pair)
    tokens = np.random.default_rng(3).integers(0, exact.vocabulary, 100).tolist()
    assert np.array_equal(exact.score(tokens[:20]), coarse.score(tokens[:20]))
    exact.reset()
    coarse.reset()
    expected, found = exact.extend(tokens[:90]), coarse.extend(tokens[:90])
    spread = expected.std()
    assert 0 < np.abs(found - expected).max() < 0.2 * spread


def test_texts_are_scored_as_prompts_are_computed(pair):
    coarse = pair[1].session
    tokens = np.random.default_rng(4).integers(0, coarse.vocabulary, 90).tolist()
    coarse.reset()
    last = coarse.score(tokens)[-1]
    coarse.reset()
    np.testing.assert_allclose(last, coarse.extend(tokens), atol=2e-5 * np.abs(last).max())


def test_the_plan_is_kept_and_explained(pair, tmp_path):
    coarse = pair[1]
    assert "prefill=int8" in str(intaglio.Plan.from_json(json.dumps(coarse.manifest.plan)))
    passes = [one.pass_name for one in coarse.report.account.applied]
    assert "coarsen_prefill" in passes
