"""Write a compiled model's graph for other runtimes."""

from __future__ import annotations

import argparse

from intaglio.compiler.cli.common import add_json, add_model, opened, show


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_model(parser)
    parser.add_argument(
        "-o", "--output", metavar="DIR", required=True, help="where model.onnx and its weights go"
    )
    parser.add_argument("--format", choices=("onnx",), default="onnx")
    parser.add_argument(
        "--round-activations",
        action="store_true",
        help="keep the nodes that round activations to int8; runtimes then agree less closely",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Export and print where to."""
    with opened(options) as compiled:
        path = compiled.export(
            options.output, format=options.format, round_activations=options.round_activations
        )
    size = sum(one.stat().st_size for one in path.parent.iterdir())
    show(options, {"path": str(path), "bytes": size}, f"{path}: {size / 1e6:.1f} MB with its weights")
    return 0
