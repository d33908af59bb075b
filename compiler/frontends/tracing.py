"""From model files to graphs: `trace` asks the front ends in order; the first to claim a path reads it."""

from __future__ import annotations

from pathlib import Path

from intaglio.compiler.errors import OptionError
from intaglio.compiler.frontends.frontend import Frontend
from intaglio.compiler.frontends.gguf.frontend import GgufFrontend
from intaglio.compiler.frontends.traced import Traced

FRONTENDS: tuple[Frontend, ...] = (GgufFrontend(),)


def trace(path: str | Path, frontends: tuple[Frontend, ...] = FRONTENDS) -> Traced:
    """The model at `path`, as a graph in standard ONNX ops with its tokenizer.

    Raises `OptionError` where there is nothing at `path` or no front end claims it, `ModelFileError`
    where the file is broken, and `UnsupportedModelError` where it holds what cannot be compiled.
    """
    place = Path(path)
    if not place.exists():
        raise OptionError(f"trace: there is no {place}: give the path of a model.")
    for frontend in frontends:
        if frontend.claims(place):
            return frontend.trace(place)
    accepted = " or ".join(frontend.accepts for frontend in frontends)
    raise OptionError(f"trace: {place} is no model of a known kind: give {accepted}.")
