"""The report of a compiled graph: its region, its layers, what is handed over."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass

from intaglio.compiler.explain_graph import (
    CONSTANT,
    candidate_facts,
    kept_fact,
    kernel_fact,
    shapes_fact,
)
from intaglio.compiler.manifest import Manifest
from intaglio.compiler.report import Measure, Report, SiteReport

SHOWN = 8  # operators in a line


@dataclass(frozen=True)
class GraphReport(Report):
    """Inputs, outputs and operators, beside what every report tells."""

    inputs: dict[str, str]  # name → type and shape
    outputs: dict[str, str]
    operators: dict[str, int]  # how many nodes there are of each, the most first
    reason: str  # which way of running it was kept, and why
    candidates: tuple[str, ...]  # what was measured of each way
    kernels: str  # how many nodes run in kernels of which kinds
    shapes: str  # of the calls that were measured

    @property
    def title(self) -> str:
        """Over the table and the picture of the sites."""
        return "Where the weights are"

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Bytes."""
        return (Measure("bytes", "MB of weights", 1e-6, 3),)

    def measured(self, site: SiteReport) -> tuple[float, ...]:
        """Bytes."""
        return (site.bytes,)

    def headlines(self) -> tuple[str, ...]:
        """The facts that fit into a line each."""
        most = [f"{count} {name}" for name, count in list(self.operators.items())[:SHOWN]]
        rest = len(self.operators) - len(most)
        return (
            self.origin(),
            f"inputs: {_listed(self.inputs)}; outputs: {_listed(self.outputs)}",
            f"artefact {self.artifact_bytes / 1e6:.1f} MB",
            f"{sum(self.operators.values())} nodes: {self.reason}",
            f"measured on calls with {self.shapes}; calls of other shapes run in onnxruntime",
            *(f"  {one}" for one in self.candidates),
            *([f"kernels: {self.kernels}"] if self.kernels else []),
            f"operators: {', '.join(most)}{f', {rest} others' if rest else ''}",
            *self.effort(),
        )


def make_report(
    manifest: Manifest, inputs: dict[str, str], outputs: dict[str, str], size: int
) -> GraphReport:
    """Put everything together; `size` is the artefact's, in bytes."""
    sites = tuple(SiteReport(str(one["site"]), one, int(one["bytes"]), None) for one in manifest.sites)
    computing = [one for one in manifest.operators.values() if one != CONSTANT]
    return GraphReport(
        source=dataclasses.asdict(manifest.source),
        target=manifest.target,
        plan=manifest.plan,
        artifact_bytes=size,
        peak_memory_bytes=manifest.peak_memory_bytes,
        seconds=manifest.seconds,
        sites=sites,
        account=manifest.account,
        inputs=inputs,
        outputs=outputs,
        operators=dict(Counter(computing).most_common()),
        reason=kept_fact(manifest),
        candidates=tuple(candidate_facts(manifest)),
        kernels=kernel_fact(manifest),
        shapes=shapes_fact(manifest),
    )


def _listed(ports: dict[str, str]) -> str:
    return ", ".join(f"{name} {port}" for name, port in ports.items()) or "none"
