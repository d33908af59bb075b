"""Which layers of a graph can be rounded: all, or all but those that cost the most agreement."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.backends.onnxruntime import OnnxRuntimeSession, RegionSession, write_region
from intaglio.compiler.calibration import CalibrationInputs
from intaglio.compiler.graph_quality import GraphQuality, judge
from intaglio.compiler.int8_recipes import Recipe
from intaglio.passes.result import PassResult

Arrays = Mapping[str, NDArray[Any]]
PROBES = 2  # inputs on which each layer is tried alone
FEW = 8  # inputs on which sets of layers are tried
CAUTION = 0.8  # of the tolerance: other inputs will do a little worse
TRIES = 8  # of the gate, each time with fewer layers
FEWER = 1.25  # times as many layers left out, at each try


@dataclass(frozen=True)
class Found:
    """The layers that a recipe can round, and how close the outputs stay on the inputs held out."""

    sites: tuple[str, ...]
    left_out: Mapping[str, float]  # site → what rounding it alone loses
    result: PassResult
    quality: GraphQuality


@dataclass
class Int8Search:
    """Runs rounded versions of `model` on calibration inputs and compares with the original."""

    model: ir.Model
    inputs: CalibrationInputs
    tolerance: float
    threads: int
    _wanted: list[Arrays] = field(init=False)
    _held_out: list[Arrays] = field(init=False)
    _trials: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        session = OnnxRuntimeSession(self.model, threads=self.threads)
        self._wanted = [session.run(one) for one in self.inputs.seen[:FEW]]
        self._held_out = [session.run(one) for one in self.inputs.held_out]

    def loss(self, recipe: Recipe, sites: Collection[str]) -> float:
        """What rounding `sites` loses on inputs that ranges come from, at the lower end of an interval."""
        return self._tried(recipe, sites, FEW).loss

    def _tried(self, recipe: Recipe, sites: Collection[str], most: int) -> GraphQuality:
        calls = self.inputs.seen[:most]
        found = self._outputs(recipe.cook(self.model, sites).model, calls)
        return judge(self._wanted[: len(calls)], found, self.tolerance)

    def find(self, recipe: Recipe, seconds: float) -> Found:
        """As many of the recipe's layers as the tolerance allows, those that lose the least first.

        Where all together lose too much, each is tried alone, or several together where `seconds` would not
        be enough. The result may fail: `quality` is measured on the inputs held out.
        """
        sites, aim = recipe.sites, self.tolerance * CAUTION
        everything = found = self._measured(recipe, sites, {})
        if found.quality.passes:
            return found
        ranked = self._ranked(recipe, seconds)
        left = self._fewest(recipe, list(ranked), aim)
        for _ in range(TRIES):
            kept = [site for site in sites if site not in list(ranked)[:left]]
            found = self._measured(recipe, kept, {site: ranked[site] for site in list(ranked)[:left]})
            if not kept:
                return everything
            if found.quality.passes:
                break
            left = min(len(sites), int(left * FEWER) + 1)
        return found

    def _measured(self, recipe: Recipe, sites: Sequence[str], left_out: Mapping[str, float]) -> Found:
        result = recipe.cook(self.model, sites)
        found = self._outputs(result.model, self.inputs.held_out)
        return Found(tuple(sites), left_out, result, judge(self._held_out, found, self.tolerance))

    def _ranked(self, recipe: Recipe, seconds: float) -> dict[str, float]:
        """Site → its loss alone, the largest first; neighbours share one where time is short."""
        self._trials = 0
        start, losses, rest = time.monotonic(), dict[str, float](), list(recipe.sites)
        while rest:
            together = self._affordable(len(rest), len(losses), time.monotonic() - start, seconds)
            group, rest = rest[:together], rest[together:]
            lost = self._tried(recipe, group, PROBES).mean_loss
            losses |= dict.fromkeys(group, lost / len(group))
        return dict(sorted(losses.items(), key=lambda one: -one[1]))

    def _affordable(self, left: int, tried: int, spent: float, seconds: float) -> int:
        """How many of the layers left must be tried together to be done in time."""
        if not tried:
            return 1
        self._trials += 1
        trials = max(1, int((seconds - spent) / (spent / self._trials)))
        return max(1, -(-left // trials))

    def _fewest(self, recipe: Recipe, ranked: Sequence[str], aim: float) -> int:
        """How many of `ranked`, from its beginning, must stay in floating point, by halving."""
        low, high = 0, len(ranked)  # too few, enough
        while high - low > 1:
            middle = (low + high) // 2
            if self.loss(recipe, ranked[middle:]) <= aim:
                high = middle
            else:
                low = middle
        return high

    def _outputs(self, model: ir.Model, calls: Sequence[Arrays]) -> list[Arrays]:
        with tempfile.TemporaryDirectory(prefix="intaglio-int8-") as folder:
            write_region(model, Path(folder), "candidate")
            session = RegionSession(Path(folder) / "candidate.onnx", threads=self.threads)
            return [session.run(one) for one in calls]
