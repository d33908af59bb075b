"""The passes over graphs: what `compile`, and looking before it, do alike."""

from __future__ import annotations

from intaglio.compiler.frontends.traced import Traced
from intaglio.compiler.ir import OPSET_KEPT
from intaglio.compiler.plan import GRAPH_PLAN
from intaglio.compiler.settings import Settings
from intaglio.passes.linears import find_linears
from intaglio.passes.normalize import normalize_graph
from intaglio.passes.quantize import apply_treatments
from intaglio.passes.quantize.sites import check_sites
from intaglio.passes.result import Declined, PassResult
from intaglio.passes.widen import WidenBfloat16, WidenLinears


def normalized_graph(traced: Traced) -> PassResult:
    """The canonical graph, in types that onnxruntime has kernels for."""
    widened = WidenBfloat16()(traced.model)
    return joined(widened, normalize_graph(widened.model, expected=traced.expected))


def treated_graph(normalized: PassResult, settings: Settings) -> tuple[Settings, PassResult]:
    """(`settings` with its plan, the graph after the treatments). Raises `OptionError` for unknown sites."""
    known = [one.site for one in find_linears(normalized.model)]
    settings = settings.with_plan_for(known, decoder=False)
    plan = settings.chosen
    check_sites(known, plan.sites, "compile")
    kept = normalized.model.metadata_props.get(OPSET_KEPT)
    if kept is not None:
        # What treatments insert needs the opset of our IR.
        declined = Declined("apply_treatments", "model", f"its layers stay as they are: {kept}")
        return settings, PassResult(normalized.model, declined=(declined,) * (plan != GRAPH_PLAN))
    rounded = [site for site in known if plan[site].weights is not None]
    widened = WidenLinears(rounded)(normalized.model)
    return settings, joined(widened, apply_treatments(widened.model, plan.sites, plan.default))


def joined(first: PassResult, second: PassResult) -> PassResult:
    """Both accounts, in order."""
    return PassResult(second.model, (*first.applied, *second.applied), (*first.declined, *second.declined))
