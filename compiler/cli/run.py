"""Generate text with a compiled model."""

from __future__ import annotations

import argparse
import dataclasses
import sys

from intaglio.compiler.cli.common import add_json, add_model, show
from intaglio.compiler.errors import OptionError


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_model(parser)
    parser.add_argument("prompt", metavar="PROMPT", help="text to continue; - reads it from standard input")
    parser.add_argument(
        "--chat", action="store_true", help="the prompt is a message in the model's chat format"
    )
    parser.add_argument("--system", metavar="TEXT", help="a system message before it; with --chat")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="default: 128, or what fits")
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="0 (the default) always takes the likeliest token"
    )
    parser.add_argument("--top-k", type=int, metavar="K", help="choose among the K likeliest tokens")
    parser.add_argument(
        "--top-p", type=float, metavar="P", help="choose among the likeliest tokens that add up to P"
    )
    parser.add_argument(
        "--repetition-penalty", type=float, default=1.0, metavar="X", help="above 1: less repetition"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="the same choices every time")
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="ends the text; may be repeated"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Stream the continuation; with `--json`, print it whole with tokens and times."""
    if options.system is not None and not options.chat:
        raise OptionError("run: --system has no effect without --chat: add --chat.")
    from intaglio.compiler.cli.common import opened

    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    with opened(options) as compiled:
        result = compiled.generate(
            _messages(prompt, options.system) if options.chat else prompt,
            options.max_new_tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            repetition_penalty=options.repetition_penalty,
            seed=options.seed,
            stop=options.stop,
            stream=None if options.json else _show_piece,
        )
    # The text itself has been streamed; what is left is the end of its last line.
    show(options, {**dataclasses.asdict(result), "tokens": list(result.tokens)}, "")
    return 0


def _messages(prompt: str, system: str | None) -> list[dict[str, str]]:
    before = [] if system is None else [{"role": "system", "content": system}]
    return [*before, {"role": "user", "content": prompt}]


def _show_piece(piece: str) -> None:
    print(piece, end="", flush=True)
