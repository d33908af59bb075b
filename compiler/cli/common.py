"""What the commands share: arguments, opening a model, and output for people or for machines."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from intaglio.compiler.compiled_model import CompiledModel


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def add_model(parser: argparse.ArgumentParser) -> None:
    """The compiled model, and how to open it."""
    parser.add_argument("folder", metavar="DIR", help="a compiled model")
    add_threads(parser)
    parser.add_argument("--recompile", action="store_true", help="build its code anew for this machine")


def add_threads(parser: argparse.ArgumentParser) -> None:
    """`--threads`."""
    parser.add_argument("--threads", type=int, metavar="N", help="default: one per core")


def opened(options: argparse.Namespace) -> CompiledModel:
    """The model that `options` name."""
    from intaglio.compiler.driver import load

    return load(options.folder, recompile=options.recompile, threads=options.threads)


def show(options: argparse.Namespace, values: dict[str, Any], text: str) -> None:
    """Print `values` as JSON if asked for, else `text`."""
    print(json.dumps(values, indent=2, ensure_ascii=False) if options.json else text)
