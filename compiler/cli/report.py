"""Tell everything about a compiled model: origin, sites with bytes and times, what was declined."""

from __future__ import annotations

import argparse

from intaglio.compiler.cli.common import add_json, add_model, opened, show


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_model(parser)
    parser.add_argument("--html", metavar="FILE", help="write it as a page, too")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Measure the sites and print the report."""
    with opened(options) as compiled:
        report = compiled.report
    if options.html:
        report.to_html(options.html)
    show(options, report.to_json(), report.to_text().rstrip())
    return 0
