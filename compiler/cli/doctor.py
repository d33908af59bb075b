"""Tell what this machine has for compiling and running, what it lacks, and what to do about it."""

from __future__ import annotations

import argparse

from intaglio.compiler.cli.common import add_json, show


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Diagnose and print; status 1 where something stands in the way."""
    from intaglio.compiler.doctor import diagnose

    diagnosis = diagnose()
    show(options, diagnosis.to_json(), diagnosis.to_text())
    return 0 if diagnosis.healthy else 1
