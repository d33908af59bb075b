"""Ways to compute a graph with 8-bit integers: which layers, and what the passes do to them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from intaglio.compiler.calibration import CalibrationInputs, Histogram, RangeMethod, choose_range, observe
from intaglio.passes.linears import find_linears
from intaglio.passes.quantize import Treatment, apply_treatments
from intaglio.passes.quantize.formats import WeightFormat
from intaglio.passes.quantize.round_dynamically import RoundDynamically
from intaglio.passes.quantize.round_weights import RoundWeights
from intaglio.passes.quantize.static import (
    FoldChannels,
    RecognizeHardSwish,
    RoundStatically,
    ValueRange,
    find_layers,
    places_of,
)
from intaglio.passes.result import Pass, PassResult, run_passes

PREPARATION: tuple[Pass, ...] = (FoldChannels(), RecognizeHardSwish())
PER_CHANNEL = WeightFormat(8, None)


class Recipe(Protocol):
    """One way; `sites` are the layers it can round, in the order of the graph."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def sites(self) -> tuple[str, ...]:
        """All layers that it can round."""

    def cook(self, model: ir.Model, sites: Collection[str]) -> PassResult:
        """A rounded copy of `model` in which `sites` compute with integers."""


@dataclass(frozen=True)
class StaticConvolutions:
    """Convolutions, and what lies between them, on grids that calibration inputs have shown."""

    sites: tuple[str, ...]
    ranges: Mapping[str, ValueRange]
    method: RangeMethod

    @property
    def name(self) -> str:
        """With the method."""
        return f"int8 convolutions, ranges by {self.method}"

    def cook(self, model: ir.Model, sites: Collection[str]) -> PassResult:
        """Fold, then round."""
        rounding = RoundStatically(frozenset(sites), self.ranges)
        return run_passes(model.clone(), (*PREPARATION, rounding))


@dataclass(frozen=True)
class DynamicProducts:
    """Linear layers, with a range of the activations found in every call."""

    sites: tuple[str, ...]
    name: str = "int8 linear layers, ranges found in every call"

    def cook(self, model: ir.Model, sites: Collection[str]) -> PassResult:
        """Round the weights per channel, then the activations."""
        passes: tuple[Pass, ...] = (
            RoundWeights(dict.fromkeys(sites, PER_CHANNEL)),
            RoundDynamically(frozenset(sites)),
        )
        return run_passes(model.clone(), passes)


@dataclass(frozen=True)
class GroupedProducts:
    """Linear layers with weights and activations in groups, each with a scale: for kernels of our own."""

    sites: tuple[str, ...]
    treatment: Treatment
    name: str = "int8 linear layers, in groups"

    def cook(self, model: ir.Model, sites: Collection[str]) -> PassResult:
        """As a plan does it."""
        chosen = dict.fromkeys(sites, self.treatment)
        return apply_treatments(model.clone(), chosen, Treatment(None, None))


@dataclass(frozen=True)
class Both:
    """The sites of two recipes, each by its own."""

    first: Recipe
    second: Recipe

    @property
    def name(self) -> str:
        """Of both."""
        return f"{self.first.name}; {self.second.name}"

    @property
    def sites(self) -> tuple[str, ...]:
        """Of both."""
        return (*self.first.sites, *self.second.sites)

    def cook(self, model: ir.Model, sites: Collection[str]) -> PassResult:
        """The second, then the first."""
        wanted = set(sites)
        linear = self.second.cook(model, [one for one in self.second.sites if one in wanted])
        both = self.first.cook(linear.model, [one for one in self.first.sites if one in wanted])
        return PassResult(both.model, (*linear.applied, *both.applied), (*linear.declined, *both.declined))


def static_convolutions(
    model: ir.Model, inputs: CalibrationInputs, methods: Collection[RangeMethod], threads: int
) -> tuple[StaticConvolutions, ...]:
    """One recipe for each method; none where there are no convolutions. Runs the calibration inputs once."""
    prepared = run_passes(model.clone(), PREPARATION).model
    sites = tuple(one.site for one in find_layers(prepared) if one.kind == "convolution")
    if not sites:
        return ()
    names = [str(one.name) for one in places_of(prepared, sites).values]
    seen = observe(prepared, names, inputs.seen, threads)
    return tuple(StaticConvolutions(sites, _ranges(seen, method), method) for method in methods)


def _ranges(seen: Mapping[str, Histogram], method: RangeMethod) -> dict[str, ValueRange]:
    return {name: choose_range(one, method) for name, one in seen.items()}


def linear_sites(model: ir.Model) -> tuple[str, ...]:
    """The linear layers whose weights are in floating point."""
    return tuple(one.site for one in find_linears(model) if not one.weight.quantized)
