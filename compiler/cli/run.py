"""Generate text with a compiled language model, or call a compiled graph with arrays from a file."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from intaglio.compiler.cli.common import add_json, add_model, opened, show
from intaglio.compiler.errors import OptionError

if TYPE_CHECKING:
    from intaglio.compiler.compiled_graph import CompiledGraph
    from intaglio.compiler.compiled_model import CompiledModel

# With their defaults: what only a prompt makes use of.
GENERATING: dict[str, Any] = {
    "prompts": None,
    "chat": False,
    "system": None,
    "max_new_tokens": None,
    "temperature": 0.0,
    "top_k": None,
    "top_p": None,
    "repetition_penalty": 1.0,
    "seed": None,
    "stop": [],
}


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_model(parser)
    parser.add_argument(
        "prompt", metavar="PROMPT", nargs="?", help="text to continue; - reads it from standard input"
    )
    parser.add_argument(
        "--prompts", metavar="FILE", help="continue every line of FILE, as many together as compiled for"
    )
    parser.add_argument(
        "--inputs", metavar="NPZ", help="of a graph: its inputs by name, as numpy.savez writes"
    )
    parser.add_argument("--output", metavar="NPZ", help="of a graph: where its outputs go, by name")
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
    """Stream the continuation, or write the outputs; with `--json`, print what came of it."""
    if options.system is not None and not options.chat:
        raise OptionError("run: --system has no effect without --chat: add --chat.")
    from intaglio.compiler.compiled_graph import CompiledGraph

    with opened(options) as compiled:
        if isinstance(compiled, CompiledGraph):
            return _call(options, compiled)
        return _generate(options, compiled)


def _generate(options: argparse.Namespace, compiled: CompiledModel) -> int:
    if options.inputs is not None or options.output is not None:
        raise OptionError("run: --inputs and --output have no effect on language models: give a prompt.")
    if options.prompts is not None:
        return _generate_many(options, compiled)
    if options.prompt is None:
        raise OptionError("run: this language model needs a prompt: give a text, or - to read one.")
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
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


def _generate_many(options: argparse.Namespace, compiled: CompiledModel) -> int:
    from intaglio.compiler.cli.many import generate_lines

    if options.prompt is not None:
        raise OptionError("run: a prompt has no effect with --prompts: leave one of them out.")
    wrap = (lambda text: _messages(text, options.system)) if options.chat else None
    prompts, results = generate_lines(compiled, options, wrap)
    values = [{**dataclasses.asdict(one), "tokens": list(one.tokens)} for one in results]
    pairs = zip(prompts, results, strict=True)
    show(options, {"results": values}, "\n".join(f"{prompt} … {one.text!r}" for prompt, one in pairs))
    return 0


def _call(options: argparse.Namespace, compiled: CompiledGraph) -> int:
    given = [
        f"--{name.replace('_', '-')}" for name, value in GENERATING.items() if vars(options)[name] != value
    ]
    given += [] if options.prompt is None else ["a prompt"]
    if given:
        raise OptionError(
            f"run: {', '.join(given)} without effect: {compiled.manifest.source.name} is no language model "
            "that generates; give --inputs and --output."
        )
    if options.inputs is None or options.output is None:
        raise OptionError("run: this model has inputs of its own: give --inputs and --output.")
    from intaglio.compiler.array_files import call_with_file

    values = call_with_file(compiled, options.inputs, options.output)
    lines = [f"{name}: {one['dtype']} {one['shape']}" for name, one in values["outputs"].items()]
    show(options, values, "\n".join([f"{values['path']}: in {values['seconds'] * 1e3:.2f} ms", *lines]))
    return 0


def _messages(prompt: str, system: str | None) -> list[dict[str, str]]:
    before = [] if system is None else [{"role": "system", "content": system}]
    return [*before, {"role": "user", "content": prompt}]


def _show_piece(piece: str) -> None:
    print(piece, end="", flush=True)
