"""Capturing a module with `torch.export`, without changing it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.frontends.torch_module.dimensions import Example, prepare_example
from intaglio.compiler.frontends.torch_module.recurrent import keep_recurrent_layers

_LOGGERS = ("torch.onnx", "torch.export", "torch._export", "torch.fx")


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
    try:
        with quiet(), evaluating(module), keep_recurrent_layers():
            program = torch.export.export(
                module, example.arguments, example.keywords, dynamic_shapes=example.dynamic_shapes
            )
    except Exception as error:  # whatever the module's own code raises
        raise UnsupportedModelError(
            f"trace: {type(module).__qualname__} cannot be captured:", [str(error)]
        ) from error
    return Captured(program, example)


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
    with ExitStack() as stack:
        for name in _LOGGERS:
            stack.enter_context(_silent(logging.getLogger(name)))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
