"""Tell what was done to a site of a compiled model, what was declined there, and why."""

from __future__ import annotations

import argparse

from intaglio.compiler.cli.common import add_json, add_model, opened, show


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_model(parser)
    parser.add_argument(
        "site", metavar="SITE", help="a site or node, such as layers.3.mlp.down_proj; layers.3 for all of it"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print the explanation."""
    with opened(options) as compiled:
        explanation = compiled.explain(options.site)
    show(options, explanation.to_json(), explanation.to_text())
    return 0
