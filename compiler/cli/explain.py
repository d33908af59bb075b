"""Tell what was done to a site of a compiled model, and why; without a site, the whole report."""

from __future__ import annotations

import argparse

from intaglio.compiler.cli.common import add_json, add_model, opened, show
from intaglio.compiler.errors import OptionError


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_model(parser)
    parser.add_argument("site", metavar="SITE", nargs="?", help="such as layers.3.mlp.down_proj")
    parser.add_argument("--html", metavar="FILE", help="write the whole report as a page")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print an explanation or the report."""
    if options.html and options.site:
        raise OptionError("explain: --html writes the whole report: leave out the site.")
    with opened(options) as compiled:
        if options.site:
            explanation = compiled.explain(options.site)
            show(options, explanation.to_json(), explanation.to_text())
            return 0
        report = compiled.report
    if options.html:
        report.to_html(options.html)
    show(options, report.to_json(), report.to_text().rstrip())
    return 0
