"""Compare a compiled model's predictions with the original's."""

from __future__ import annotations

import argparse
from pathlib import Path

from intaglio.compiler.cli.common import add_json, add_model, opened, show
from intaglio.compiler.errors import OptionError
from intaglio.compiler.progress import terminal_progress

MOST_TOKENS = 16384  # enough for an interval of a few per cent


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_model(parser)
    parser.add_argument(
        "--text", metavar="FILE", help="UTF-8 text to predict (default: the English in pydoc_data)"
    )
    parser.add_argument(
        "--against", metavar="MODEL", help="the original (default: the file it was compiled from)"
    )
    parser.add_argument(
        "--tokens",
        type=int,
        metavar="N",
        help=f"at most so many (default: {MOST_TOKENS} of FILE, about a minute for 135M parameters)",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Evaluate and print."""
    text = None if options.text is None else _read(Path(options.text))
    tokens = MOST_TOKENS if options.tokens is None and text is not None else options.tokens
    with opened(options) as compiled, terminal_progress(wanted=not options.json) as progress:
        measured = compiled.evaluate(text, against=options.against, tokens=tokens, progress=progress)
    low, high = measured.kl_interval
    lines = (
        f"perplexity {measured.perplexity:.3f}, the original's {measured.reference_perplexity:.3f}",
        f"KL to the original {measured.kl:.5f} nats per token (95 %: {low:.5f} … {high:.5f})",
        f"same likeliest token {measured.top1_agreement:.2%}",
        f"over {measured.tokens} tokens in {measured.windows} windows",
    )
    show(options, measured.to_json(), "\n".join(lines))
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"evaluate: {path} cannot be read as UTF-8 text ({error}): give a text file."
        ) from error
