"""The treated graph of a model, before anything is lowered: to look at, and to export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.compiler.account import Account
from intaglio.compiler.frontends.tracing import trace
from intaglio.compiler.settings import Settings
from intaglio.passes.linears import find_linears
from intaglio.passes.normalize import normalize
from intaglio.passes.quantize import apply_treatments
from intaglio.passes.result import PassResult


@dataclass(frozen=True)
class PlannedSite:
    """A linear layer and what the plan does to it."""

    site: str
    shape: tuple[int, ...]  # [out, in]
    treatment: str


@dataclass(frozen=True)
class Preview:
    """What a compilation would do, up to the treated graph."""

    plan: str
    context: int
    sites: tuple[PlannedSite, ...]
    account: Account


def preview(settings: Settings) -> Preview:
    """Go as far as the treated graph, and say what would be built."""
    context, model, results = treated_graph(settings)
    sites = tuple(
        PlannedSite(linear.site, linear.weight.value.shape.numpy(), str(settings.plan[linear.site]))
        for linear in find_linears(model)
        if linear.weight.value.shape is not None
    )
    return Preview(str(settings.plan), context, sites, Account.of(results))


def treated_graph(settings: Settings) -> tuple[int, ir.Model, Sequence[PassResult]]:
    """(context, the canonical and treated graph that a compilation fuses, the passes' accounts)."""
    traced = trace(settings.model)
    assert traced.architecture is not None
    context = settings.context_for(traced.architecture)
    normalized = normalize(traced.model, expected=traced.expected, capacity=context)
    treated = apply_treatments(normalized.model, settings.plan.sites, settings.plan.default)
    return context, treated.model, (normalized, treated)
