"""The report of a compiled language model, with the time of each site in a decode step."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from intaglio.compiler.batch_cost import described
from intaglio.compiler.manifest import Manifest
from intaglio.compiler.report import Measure, Report, SiteReport

if TYPE_CHECKING:
    from intaglio.backends.tvm import NativeSession, Program

PROFILE_POSITION, PROFILE_STEPS = 32, 5


@dataclass(frozen=True)
class DecoderReport(Report):
    """What a decode step reads and how long it takes, site by site, beside what every report tells."""

    architecture: dict[str, Any]
    workload: dict[str, Any]
    context: int
    bytes_per_token: int
    cache_bytes: int  # of all sequences that the model was compiled for
    memory: dict[str, int]  # bytes by kind, as allocated
    threads: int
    batch_cost: dict[str, float]  # rows → cost over that of one
    batch_cost_line: str

    @property
    def title(self) -> str:
        """Over the table and the picture of the sites."""
        return "What a decode step spends"

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Bytes and time."""
        return Measure("bytes", "MB per token", 1e-6, 2), Measure("time", "decode ms", 1e3, 3)

    def measured(self, site: SiteReport) -> tuple[float, ...]:
        """Bytes and seconds of one step."""
        return site.bytes, site.decode_seconds or 0.0

    def headlines(self) -> tuple[str, ...]:
        """The facts that fit into a line each."""
        return (
            f"{self.origin()}, context {self.context} tokens",
            f"artefact {self.artifact_bytes / 1e6:.1f} MB; "
            f"a decode step reads {self.bytes_per_token / 1e6:.1f} MB of weights",
            f"cache for {self.workload['batch']} x {self.context} tokens: {self.cache_bytes / 1e6:.1f} MB",
            self._memory_line(),
            self.batch_cost_line,
            *self.effort(),
        )

    def _memory_line(self) -> str:
        kinds = ", ".join(f"{kind} {size / 1e6:.1f}" for kind, size in self.memory.items())
        total = sum(self.memory.values()) / 1e6
        return f"memory with {self.threads} threads: at most {total:.1f} MB ({kinds})"


def make_report(
    manifest: Manifest, program: Program, session: NativeSession, artifact_bytes: int
) -> DecoderReport:
    """Profile a few decode steps and put everything together."""
    seconds = profile(session)
    sites = tuple(
        SiteReport(str(site["site"]), site, int(site["bytes"]), seconds.get(str(site["site"]), 0.0))
        for site in manifest.sites
    )
    return DecoderReport(
        source=dataclasses.asdict(manifest.source),
        architecture=manifest.architecture,
        target=manifest.target,
        plan=manifest.plan,
        workload=manifest.workload,
        context=manifest.context,
        artifact_bytes=artifact_bytes,
        bytes_per_token=program.bytes_per_token,
        cache_bytes=session.memory["state"],
        memory=session.memory,
        threads=session.threads,
        batch_cost=manifest.batch_cost,
        batch_cost_line=described(manifest),
        peak_memory_bytes=manifest.peak_memory_bytes,
        seconds=manifest.seconds,
        sites=sites,
        account=manifest.account,
    )


def profile(session: NativeSession) -> dict[str, float]:
    """Median seconds of each site in a decode step after 32 tokens (fewer in a smaller context)."""
    position = min(PROFILE_POSITION, session.capacity - PROFILE_STEPS)
    session.reset()
    session.extend([0] * max(position, 1))
    samples: dict[str, list[float]] = defaultdict(list)
    for _ in range(PROFILE_STEPS):
        step: dict[str, float] = defaultdict(float)
        for site, seconds in session.profile([0]):
            step[site] += seconds
        for site, seconds in step.items():
            samples[site].append(seconds)
    return {site: sorted(taken)[len(taken) // 2] for site, taken in samples.items()}
