"""Integer versions of a graph that stay within a tolerance, for the measured choice to time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.compiler.calibration import RANGE_METHODS, CalibrationInputs, RangeMethod
from intaglio.compiler.graph_quality import TOLERANCE, GraphQuality
from intaglio.compiler.int8_recipes import (
    Both,
    DynamicProducts,
    GroupedProducts,
    Recipe,
    StaticConvolutions,
    linear_sites,
    static_convolutions,
)
from intaglio.compiler.int8_search import Found, Int8Search
from intaglio.passes.quantize.formats import Treatment
from intaglio.passes.result import Applied, Declined

GROUPED = "int8-g32:a8g32"
NAME = "int8_candidates"
NEGLIGIBLE = 0.1  # of the tolerance


@dataclass(frozen=True)
class Int8Options:
    """What is asked for."""

    tolerance: float = TOLERANCE  # of cosine or top-1
    threads: int = 1
    seconds: float = 20.0  # for trying layers one by one, for each recipe that needs it
    methods: tuple[RangeMethod, ...] = RANGE_METHODS


@dataclass(frozen=True)
class Int8Candidate:
    """A rounded graph within the tolerance."""

    name: str
    model: ir.Model
    applied: tuple[Applied, ...]
    declined: tuple[Declined, ...]  # layers that stay in floating point
    quality: GraphQuality


@dataclass(frozen=True)
class Int8Candidates:
    """Those that pass, and why others do not."""

    candidates: tuple[Int8Candidate, ...]
    declined: tuple[Declined, ...]


def int8_candidates(model: ir.Model, inputs: CalibrationInputs, options: Int8Options) -> Int8Candidates:
    """Integer versions of the normalised graph `model` (left as it is) within `options.tolerance`.

    Convolutions get fixed grids, from `inputs`; linear layers grids found in every call, or groups. Layers
    that lose too much stay in floating point. What still fails on the inputs held out is declined, with
    the figures.
    """
    search = Int8Search(model, inputs, options.tolerance, options.threads)
    candidates, declined = list[Int8Candidate](), list[Declined]()
    for recipe in _recipes(model, inputs, options, search):
        found = search.find(recipe, options.seconds)
        if not found.result.applied:
            declined += found.result.declined
        elif found.quality.passes:
            candidates.append(_candidate(recipe, found, inputs))
        else:
            reason = f"{found.quality} on {inputs}: more is lost than {options.tolerance:.2%}"
            declined.append(Declined(NAME, recipe.name, reason))
    if not candidates and not declined:
        declined.append(Declined(NAME, "model", "it has no convolution or linear layer with float weights"))
    return Int8Candidates(tuple(candidates), tuple(declined))


def _recipes(
    model: ir.Model, inputs: CalibrationInputs, options: Int8Options, search: Int8Search
) -> Iterator[Recipe]:
    linears = linear_sites(model)
    static = static_convolutions(model, inputs, options.methods, options.threads)
    best = _least_loss(static, search)
    if best is not None:
        yield best
    if linears:
        dynamic = DynamicProducts(linears)
        yield dynamic if best is None else Both(best, dynamic)
        yield GroupedProducts(linears, Treatment.parse(GROUPED))


def _least_loss(static: tuple[StaticConvolutions, ...], search: Int8Search) -> StaticConvolutions | None:
    """The method of choosing ranges with which rounding everything loses the least; the first of equals.

    Losses far below the tolerance are equal: a few inputs do not tell them apart.
    """
    if len(static) < 2:
        return static[0] if static else None
    least = search.tolerance * NEGLIGIBLE
    return min(static, key=lambda one: max(least, search.loss(one, one.sites)))


def _candidate(recipe: Recipe, found: Found, inputs: CalibrationInputs) -> Int8Candidate:
    gate = [
        Applied(NAME, "model", f"{recipe.name}: {inputs}", certificate)
        for certificate in found.quality.certificates()
    ]
    kept = [
        Declined(NAME, site, f"stays in floating point: alone it loses {loss:.1e}")
        for site, loss in found.left_out.items()
    ]
    return Int8Candidate(
        recipe.name,
        found.result.model,
        (*found.result.applied, *gate),
        (*found.result.declined, *kept),
        found.quality,
    )
