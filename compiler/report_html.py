"""The report as one HTML page that needs nothing else: facts, a picture of the sites, tables."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from intaglio.compiler.explain import certificate_text, fact_text

if TYPE_CHECKING:
    from intaglio.compiler.account import AppliedEntry
    from intaglio.compiler.report import Report, SiteReport

ROW, LABEL, BAR = 22, 260, 420  # pixels: height of a row, width of its label, of the longest bar
COLOURS = ("#3b6ea5", "#c2703d")  # of the measures, in order
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse}td,th{padding:.15rem .8rem .15rem 0;text-align:left;vertical-align:top;"
    "border-bottom:1px solid #ddd}svg text{font:13px system-ui,sans-serif;fill:#222}"
    "@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}svg text{fill:#ddd}}"
)


def page(report: Report) -> str:
    """The page for `report`."""
    parts = [
        "<h1>Compiled model</h1>",
        *(f"<p>{html.escape(line)}</p>" for line in report.headlines()),
        f"<h2>{html.escape(report.title)}</h2>",
        picture(report),
        "<h2>Sites</h2>",
        _sites(report),
        "<h2>What the passes did</h2>",
        table(("pass", "site", "what", "certificate"), (_applied(one) for one in report.account.applied)),
        "<h2>What they declined</h2>",
        _declined(report),
    ]
    body = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>Intaglio report</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def picture(report: Report) -> str:
    """Bars: each kind of site's share of the bytes, and of the time where that is known."""
    sums = {kind: tuple(measured) for kind, (_, *measured) in report.kinds().items()}
    totals = [sum(column) or 1 for column in zip(*sums.values(), strict=True)]
    shares = {
        kind: tuple(one / total for one, total in zip(measured, totals, strict=True))
        for kind, measured in sums.items()
    }
    largest = max((max(one) for one in shares.values()), default=0) or 1.0
    step = ROW * len(report.measures)
    rows = [_bars(step * index, kind, one, largest) for index, (kind, one) in enumerate(shares.items())]
    height = step * len(rows) + ROW
    legend = "".join(
        f'<text x="{LABEL + 90 * place}" y="{height - 5}" style="fill:{COLOURS[place]}">■ {one.name}</text>'
        for place, one in enumerate(report.measures)
    )
    what = " and ".join(one.name for one in report.measures)
    return (
        f'<svg role="img" aria-label="Share of {what} by site" width="{LABEL + BAR + 70}" '
        f'height="{height}">{"".join(rows)}{legend}</svg>'
    )


def _bars(top: int, kind: str, shares: tuple[float, ...], largest: float) -> str:
    drawn = [f'<text x="0" y="{top + ROW - 4}">{html.escape(kind)}</text>']
    for place, (share, colour) in enumerate(zip(shares, COLOURS, strict=False)):
        y, width = top + 4 + place * (ROW - 4), BAR * share / largest
        drawn.append(f'<rect x="{LABEL}" y="{y}" width="{width:.1f}" height="{ROW - 8}" fill="{colour}"/>')
        drawn.append(f'<text x="{LABEL + width + 5:.1f}" y="{y + ROW - 11}">{share:.1%}</text>')
    return "".join(drawn)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts."""
    head = "".join(f"<th>{html.escape(one)}</th>" for one in headings)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(one)}</td>' for one in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _sites(report: Report) -> str:
    # The sites of a graph do not all have the same facts.
    keys = dict.fromkeys(key for site in report.sites for key in site.facts)
    facts = [key for key in keys if key not in ("site", "bytes")]
    timed = any(one.decode_seconds is not None for one in report.sites)
    headings = ["site", *(key.replace("_", " ") for key in facts), "bytes", *["decode µs"] * timed]
    return table(headings, (_site(one, facts) for one in report.sites))


def _site(site: SiteReport, facts: Sequence[str]) -> list[str]:
    seconds = site.decode_seconds
    time = [] if seconds is None else [f"{seconds * 1e6:.1f}"]
    return [site.name, *(fact_text(site.facts.get(key, "")) for key in facts), f"{site.bytes:,}", *time]


def _applied(entry: AppliedEntry) -> tuple[str, str, str, str]:
    certificate = "" if entry.certificate is None else certificate_text(entry.certificate)
    return entry.pass_name, entry.site, entry.detail, certificate


def _declined(report: Report) -> str:
    if not report.account.declined:
        return "<p>Nothing.</p>"
    return table(
        ("pass", "site", "why"), ((one.pass_name, one.site, one.reason) for one in report.account.declined)
    )
