"""From a plan to rounded weights and activations."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from intaglio.passes.linears import find_linears
from intaglio.passes.quantize.coarsen_prefill import CoarsenPrefill
from intaglio.passes.quantize.float_weights import FloatWeights
from intaglio.passes.quantize.formats import CacheFormat, PrefillFormat, Treatment, WeightFormat
from intaglio.passes.quantize.quantize_activations import QuantizeActivations
from intaglio.passes.quantize.round_weights import RoundWeights
from intaglio.passes.quantize.sites import check_sites
from intaglio.passes.quantize.store_cache import StoreCache
from intaglio.passes.result import Pass, PassResult, run_passes


def apply_treatments(
    model: ir.Model,
    sites: Mapping[str, Treatment] | None = None,
    default: Treatment | None = None,
    cache: CacheFormat = "fp32",
    prefill: PrefillFormat = "exact",
) -> PassResult:
    """Treat every linear layer of `model` as `sites` says, the others by `default` (`keep` if left out).

    Keys and values are stored as `cache`, products of many tokens computed as `prefill` says. Raises
    `OptionError` where `sites` names a layer that the model has not. What a treatment asks for and a layer
    does not allow is declined with the reason.
    """
    known = [linear.site for linear in find_linears(model)]
    check_sites(known, sites or {}, "apply_treatments")
    chosen = {site: (sites or {}).get(site, default or Treatment()) for site in known}
    return run_passes(model, (*passes_for(chosen), StoreCache(cache), CoarsenPrefill(prefill)))


def passes_for(treatments: Mapping[str, Treatment]) -> tuple[Pass, ...]:
    """The passes that carry out `treatments`, in order."""
    weights = {site: one.weights for site, one in treatments.items()}
    activations = {site: one.activations for site, one in treatments.items()}
    return (
        RoundWeights({site: one for site, one in weights.items() if isinstance(one, WeightFormat)}),
        FloatWeights({site: one for site, one in weights.items() if isinstance(one, str)}),
        QuantizeActivations({site: one.group for site, one in activations.items() if one is not None}),
    )
