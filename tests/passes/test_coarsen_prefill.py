"""Coarser weights for prompts: which layers, certified how; the graph stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from intaglio.compiler.errors import OptionError
from intaglio.compiler.frontends.tracing import trace
from intaglio.compiler.ir import to_text
from intaglio.passes.linears import find_linears
from intaglio.passes.normalize import Expected, normalize
from intaglio.passes.quantize import Treatment, apply_treatments
from intaglio.passes.quantize.coarsen_prefill import CoarsenPrefill, coarsened

NONE = Expected()


@pytest.fixture
def treated(tiny_gguf: Callable[..., Path]) -> Callable[[str], object]:
    """The tiny llama with one treatment for all layers."""

    def make(treatment: str) -> object:
        model = trace(tiny_gguf(quantization="Q4_1")).model
        normalize(model, expected=NONE, capacity=64)
        apply_treatments(model, default=Treatment.parse(treatment))
        return model

    return make


def test_every_layer_with_groups_and_rounded_activations_is_certified(treated):
    model = treated("keep")
    before = to_text(model)
    result = CoarsenPrefill("int8")(model)
    sites = [one.site for one in find_linears(model)]
    assert [one.site for one in result.applied] == sites[:-1]
    assert not result.declined
    assert all(one.certificate.holds and 0 < one.certificate.error < 0.01 for one in result.applied)
    assert to_text(model) == before


@pytest.mark.parametrize(
    ("treatment", "declined"), [("int8-channel", True), ("keep:a16", False), ("fp32", False)]
)
def test_layers_that_stay_exact(treated, treatment, declined):
    model = treated(treatment)
    result = CoarsenPrefill("int8")(model)
    assert not result.applied
    assert len(result.declined) == (len(find_linears(model)) - 1 if declined else 0)
    assert all("one scale per row" in one.reason for one in result.declined)


def test_only_layers_before_gated_units(treated):
    result = CoarsenPrefill("int8-gates")(treated("keep"))
    assert result.applied
    assert all(one.site.endswith("mlp.gate_up_proj") for one in result.applied)
    assert len(result.applied) == sum(
        one.site.endswith("gate_up_proj") for one in find_linears(treated("keep"))
    )


def test_exact_changes_nothing_and_others_are_refused(treated):
    assert not CoarsenPrefill("exact")(treated("keep")).applied
    with pytest.raises(OptionError, match="'int4' is not one of exact, int8-gates, int8"):
        CoarsenPrefill("int4")


def test_the_grid_holds_the_largest_weight():
    weight = np.random.default_rng(0).normal(size=(5, 70)).astype(np.float32)
    weight[3] = 0
    rounded = coarsened(weight)
    largest = np.abs(weight).max(axis=1)
    assert np.allclose(np.abs(rounded).max(axis=1), largest, rtol=1e-6)
    assert (np.abs(rounded - weight).max(axis=1) <= largest / 254 * 1.001).all()
    assert len(np.unique(np.rint(rounded[0] / (largest[0] / 127)))) <= 255
