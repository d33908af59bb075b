"""The whole account of a compiled model: as JSON, as text, and as a page of its own."""

from __future__ import annotations

import dataclasses
import io
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intaglio.compiler.account import Account
from intaglio.compiler.artifact import Manifest

if TYPE_CHECKING:
    from rich.table import Table

    from intaglio.backends.tvm import NativeSession, Program

PROFILE_POSITION, PROFILE_STEPS = 32, 5


@dataclass(frozen=True)
class SiteReport:
    """One compiled site, in the order in which they run."""

    name: str
    facts: dict[str, Any]  # as lowered: kernel, treatment, shape
    bytes: int  # packed weights that one decode step reads
    decode_seconds: float  # median of five steps after 32 tokens


@dataclass(frozen=True)
class Report:
    """Origin, target, plan, sites with bytes and times, and what every pass did and declined."""

    source: dict[str, Any]
    architecture: dict[str, Any]
    target: dict[str, Any]
    plan: dict[str, Any]
    workload: dict[str, Any]
    context: int
    artifact_bytes: int
    bytes_per_token: int
    peak_memory_bytes: int
    seconds: dict[str, float]
    sites: tuple[SiteReport, ...]
    account: Account

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return dataclasses.asdict(self)

    def to_text(self) -> str:
        """Tables for a terminal, without colours."""
        from rich.console import Console

        console = Console(file=io.StringIO(), width=110, color_system=None)
        for line in self.headlines():
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        console.print(self._site_table())
        for entry in self.account.declined:
            console.print(
                f"declined: {entry.pass_name} at {entry.site}: {entry.reason}", markup=False, soft_wrap=True
            )
        file = console.file
        assert isinstance(file, io.StringIO)
        return file.getvalue()

    def to_html(self, path: str | Path) -> Path:
        """Write one self-contained page, with the sites' bytes and times as bars; the path written."""
        from intaglio.compiler.folders import disk_errors
        from intaglio.compiler.report_html import page

        with disk_errors("report", Path(path)):
            Path(path).write_text(page(self), encoding="utf-8")
        return Path(path)

    def headlines(self) -> tuple[str, ...]:
        """The facts that fit into a line each."""
        compiling = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in self.seconds.items())
        return (
            f"{Path(self.source['path']).name}, {self.source['bytes'] / 1e6:.1f} MB, for "
            f"{self.target['name']} ({self.target['cpu']}), plan {self._plan()}, "
            f"context {self.context} tokens",
            f"artefact {self.artifact_bytes / 1e6:.1f} MB; "
            f"a decode step reads {self.bytes_per_token / 1e6:.1f} MB of weights",
            f"compiled in {sum(self.seconds.values()):.1f} s ({compiling}), "
            f"with at most {self.peak_memory_bytes / 1e6:.0f} MB of anonymous memory",
            f"passes: {len(self.account.applied)} rewrites, {len(self.account.declined)} declined",
        )

    def _plan(self) -> str:
        sites = (f"{site}={treatment}" for site, treatment in self.plan["sites"].items())
        return ", ".join([self.plan["default"], *sites])

    def kinds(self) -> dict[str, tuple[int, int, float]]:
        """Sites alike in all layers: name with `*` for the layer → (how many, bytes, decode seconds)."""
        groups: dict[str, list[SiteReport]] = defaultdict(list)
        for site in self.sites:
            groups[".".join("*" if part.isdigit() else part for part in site.name.split("."))].append(site)
        return {
            kind: (len(group), sum(one.bytes for one in group), sum(one.decode_seconds for one in group))
            for kind, group in groups.items()
        }

    def _site_table(self) -> Table:
        from rich.table import Table

        table = Table("sites", "number", "MB per token", "decode ms", title="What a decode step spends")
        for column in table.columns[1:]:
            column.justify = "right"
        for kind, (count, size, seconds) in self.kinds().items():
            table.add_row(kind, str(count), f"{size / 1e6:.2f}", f"{seconds * 1e3:.3f}")
        return table


def make_report(manifest: Manifest, program: Program, session: NativeSession, artifact_bytes: int) -> Report:
    """Profile a few decode steps and put everything together."""
    seconds = profile(session)
    sites = tuple(
        SiteReport(str(site["site"]), site, int(site["bytes"]), seconds.get(str(site["site"]), 0.0))
        for site in manifest.sites
    )
    return Report(
        source=dataclasses.asdict(manifest.source),
        architecture=manifest.architecture,
        target=manifest.target,
        plan=manifest.plan,
        workload=manifest.workload,
        context=manifest.context,
        artifact_bytes=artifact_bytes,
        bytes_per_token=program.bytes_per_token,
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
