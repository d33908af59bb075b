"""From models to graphs: `trace` asks the front ends in order; the first to claim a model reads it."""

from __future__ import annotations

from pathlib import Path

from intaglio.compiler.errors import OptionError
from intaglio.compiler.frontends.frontend import Frontend, TraceOptions
from intaglio.compiler.frontends.gguf.frontend import GgufFrontend
from intaglio.compiler.frontends.huggingface.frontend import HuggingfaceFrontend
from intaglio.compiler.frontends.onnx.frontend import OnnxFrontend
from intaglio.compiler.frontends.torch_module.frontend import TorchModuleFrontend
from intaglio.compiler.frontends.traced import Traced

FRONTENDS: tuple[Frontend, ...] = (
    GgufFrontend(),
    OnnxFrontend(),
    HuggingfaceFrontend(),
    TorchModuleFrontend(),
)


def trace(
    model: object, options: TraceOptions | None = None, frontends: tuple[Frontend, ...] = FRONTENDS
) -> Traced:
    """`model`, a path or an object in memory, as a graph in standard ONNX ops.

    Raises `OptionError` where there is nothing at a path, no front end claims the model, or the one that does
    cannot use an option, `ModelFileError` where a file is broken, and `UnsupportedModelError` where the model
    holds what cannot be compiled.
    """
    place = Path(model) if isinstance(model, str) else model
    if isinstance(place, Path) and not place.exists():
        raise OptionError(f"trace: there is no {place}: give the path of a model.")
    for frontend in frontends:
        if frontend.claims(place):
            _check(frontend, options or TraceOptions())
            return frontend.trace(place, options or TraceOptions())
    accepted = " or ".join(frontend.accepts for frontend in frontends)
    shown = place if isinstance(place, Path) else f"a {type(model).__module__}.{type(model).__qualname__}"
    raise OptionError(f"trace: {shown} is no model of a known kind: give {accepted}.")


def _check(frontend: Frontend, options: TraceOptions) -> None:
    useless = sorted(options.given - frontend.options)
    if useless:
        raise OptionError(
            f"trace: {', '.join(useless)} has no effect on {frontend.name} models: leave it out."
        )
