"""The treated graph of a model, before anything is lowered: to look at, and to export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.compiler import graph_passes
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
    context: int | None  # tokens; of a graph, none
    sites: tuple[PlannedSite, ...]
    account: Account


@dataclass(frozen=True)
class TreatedGraph:
    """The canonical and treated graph of a model, with the settings completed by its plan."""

    settings: Settings
    context: int | None  # tokens; of a graph, none
    model: ir.Model
    results: tuple[PassResult, ...]  # of the passes


def preview(settings: Settings) -> Preview:
    """Go as far as the treated graph, and say what would be built."""
    treated = treat(settings)
    plan = treated.settings.chosen
    sites = tuple(
        PlannedSite(linear.site, linear.weight.shape, str(plan[linear.site]))
        for linear in find_linears(treated.model)
    )
    return Preview(str(plan), treated.context, sites, Account.of(treated.results))


def treat(settings: Settings) -> TreatedGraph:
    """Trace, normalise, and carry out the plan, as a compilation does before it lowers anything."""
    traced = trace(settings.model, settings.tracing)
    if traced.architecture is None:
        settings.refuse_for_graphs()
        canonical = graph_passes.normalized_graph(traced)
        settings, result = graph_passes.treated_graph(canonical, settings)
        return TreatedGraph(settings, None, result.model, (canonical, result))
    context = settings.context_for(traced.architecture)
    normalized = normalize(traced.model, expected=traced.expected, capacity=context)
    linears = find_linears(normalized.model)
    quantized = {one.site for one in linears if one.weight.quantized}
    settings = settings.with_plan_for([one.site for one in linears], decoder=True, quantized=quantized)
    treated = apply_treatments(normalized.model, *settings.chosen.treatments)
    return TreatedGraph(settings, context, treated.model, (normalized, treated))


def treated_graph(settings: Settings) -> tuple[int, ir.Model, Sequence[PassResult]]:
    """(context, the graph that a compilation fuses, the passes' accounts) of a decoder."""
    treated = treat(settings)
    assert treated.context is not None, "only decoders are fused"
    return treated.context, treated.model, treated.results
