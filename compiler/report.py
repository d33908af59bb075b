"""The whole account of a compiled model: as JSON, as text, and as a page of its own."""

from __future__ import annotations

import dataclasses
import io
from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intaglio.compiler.account import Account

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class SiteReport:
    """One compiled site, in the order in which they run."""

    name: str
    facts: dict[str, Any]  # as lowered: kernel, treatment, shape
    bytes: int  # of weights
    decode_seconds: float | None  # of a decoder: median of five steps after 32 tokens


@dataclass(frozen=True)
class Measure:
    """One thing that is told of all sites."""

    name: str  # for a legend: "bytes"
    unit: str  # for the head of a column: "MB"
    scale: float  # from bytes or seconds to that unit
    digits: int  # after the point


@dataclass(frozen=True)
class Report(ABC):
    """Origin, target, plan, sites with bytes and times, and what every pass did and declined."""

    source: dict[str, Any]
    target: dict[str, Any]
    plan: dict[str, Any]
    artifact_bytes: int
    peak_memory_bytes: int
    seconds: dict[str, float]
    sites: tuple[SiteReport, ...]
    account: Account

    @property
    @abstractmethod
    def title(self) -> str:
        """Over the table and the picture of the sites."""

    @property
    @abstractmethod
    def measures(self) -> tuple[Measure, ...]:
        """What is told of each kind of site, in the order of `kinds`."""

    @abstractmethod
    def headlines(self) -> tuple[str, ...]:
        """The facts that fit into a line each."""

    @abstractmethod
    def measured(self, site: SiteReport) -> tuple[float, ...]:
        """The `measures` of one site, in bytes and seconds."""

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

    def kinds(self) -> dict[str, tuple[float, ...]]:
        """Sites alike in all layers: name with `*` for the layer → (how many, the sum of each measure)."""
        groups: dict[str, list[SiteReport]] = defaultdict(list)
        for site in self.sites:
            groups[".".join("*" if part.isdigit() else part for part in site.name.split("."))].append(site)
        return {
            kind: (len(group), *map(sum, zip(*map(self.measured, group), strict=True)))
            for kind, group in groups.items()
        }

    def origin(self) -> str:
        """The name and size of what was compiled, and for what."""
        name = self.source["description"] if self.source["path"] is None else Path(self.source["path"]).name
        return (
            f"{name}, {self.source['bytes'] / 1e6:.1f} MB, for {self.target['name']} ({self.target['cpu']}), "
            f"plan {self._plan()}"
        )

    def effort(self) -> tuple[str, str]:
        """What compiling took, and how much the passes did."""
        compiling = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in self.seconds.items())
        return (
            f"compiled in {sum(self.seconds.values()):.1f} s ({compiling}), "
            f"with at most {self.peak_memory_bytes / 1e6:.0f} MB of anonymous memory",
            f"passes: {len(self.account.applied)} rewrites, {len(self.account.declined)} declined",
        )

    def _plan(self) -> str:
        sites = (f"{site}={treatment}" for site, treatment in self.plan["sites"].items())
        return ", ".join([self.plan["default"], *sites])

    def _site_table(self) -> Table:
        from rich.table import Table

        table = Table("sites", "number", *(one.unit for one in self.measures), title=self.title)
        for column in table.columns[1:]:
            column.justify = "right"
        for kind, (count, *sums) in self.kinds().items():
            numbers = zip(sums, self.measures, strict=True)
            table.add_row(kind, str(count), *(f"{one * how.scale:.{how.digits}f}" for one, how in numbers))
        return table
