"""Capturing a module with `torch.export`, without changing it."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch

from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.frontends.torch_module.dimensions import Example, prepare_example
from intaglio.compiler.frontends.torch_module.problems import capture_problems
from intaglio.compiler.frontends.torch_module.redirection import redirected

_ATTEMPTS = 4  # each narrows the ranges of sizes as the one before asked for


@dataclass(frozen=True)
class Captured:
    """A module as `torch.export` saw it."""

    program: torch.export.ExportedProgram
    example: Example


def capture(
    module: torch.nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any], dynamic_shapes: Any
) -> Captured:
    """Trace `module(*arguments, **keywords)`; `dynamic_shapes` may name sizes instead of giving `Dim`s."""
    example = prepare_example(module, arguments, keywords, dynamic_shapes)
    for _ in range(_ATTEMPTS):
        try:
            return Captured(_program(module, example), example)
        except Exception as error:  # whatever the module's own code raises
            narrowed, failure = example.narrowed(str(error)), error
        if narrowed is None:
            break
        example = narrowed
    raise _refusal(module, example, failure) from failure


def _program(module: torch.nn.Module, example: Example) -> torch.export.ExportedProgram:
    with quiet(), evaluating(module), redirected():
        return torch.export.export(
            module, example.arguments, example.keywords, dynamic_shapes=example.dynamic_shapes
        )


def _refusal(module: torch.nn.Module, example: Example, error: Exception) -> UnsupportedModelError:
    with quiet(), evaluating(module):
        problems = capture_problems(module, example, error)
    return UnsupportedModelError(f"trace: {type(module).__qualname__} cannot be captured:", problems)


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Put all of `module` into eval mode, and back afterwards.

    Flags are set directly, because modules may override `train` with something that cannot be undone.
    """
    flags = {one: one.training for one in module.modules()}
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        # The fast path of attention layers is one fused operator without a translation.
        torch.backends.mha.set_fastpath_enabled(False)
        for one in flags:
            one.training = False
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for one, training in flags.items():
            one.training = training


@contextmanager
def quiet() -> Iterator[None]:
    """Keep PyTorch's exporters from warning and logging; what matters to users comes as errors."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
