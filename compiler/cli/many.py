"""Several prompts from a file, continued together."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from intaglio.compiler.errors import OptionError

if TYPE_CHECKING:
    from intaglio.compiler.compiled_model import CompiledModel
    from intaglio.compiler.continuation import Generation
    from intaglio.compiler.generation import Prompt


def generate_lines(
    compiled: CompiledModel, options: argparse.Namespace, wrap: Callable[[str], Prompt] | None
) -> tuple[list[str], list[Generation]]:
    """The lines of the file `options.prompts` that are not empty, and what follows each.

    `wrap` makes a prompt of a line, if it is not one already. Raises `OptionError` for a file that cannot be
    read or holds none, and as `CompiledDecoder.generate_many`.
    """
    from intaglio.compiler.compiled_decoder import CompiledDecoder

    assert isinstance(compiled, CompiledDecoder), "graphs were refused before"
    lines = _lines(Path(options.prompts))
    results = compiled.generate_many(
        [wrap(one) for one in lines] if wrap else lines,
        options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        repetition_penalty=options.repetition_penalty,
        seed=options.seed,
        stop=options.stop,
    )
    return lines, results


def _lines(path: Path) -> list[str]:
    try:
        lines = [one for one in path.read_text(encoding="utf-8").splitlines() if one]
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"run: {path} cannot be read ({error}): give a text file of prompts.") from error
    if not lines:
        raise OptionError(f"run: {path} holds no prompts: give one on each line.")
    return lines
