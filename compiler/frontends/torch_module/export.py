"""From a module to an ONNX graph: captured by `torch.export`, translated by PyTorch's ONNX exporter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import onnx_ir as ir
import torch

from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.frontends.torch_module.capture import Captured, capture, quiet
from intaglio.compiler.frontends.torch_module.graph_names import own_outputs, rename_dimensions
from intaglio.compiler.frontends.torch_module.problems import program_problems, translation_problems
from intaglio.compiler.frontends.torch_module.rules import rules
from intaglio.compiler.frontends.torch_module.weights import share_weights
from intaglio.compiler.ir.builder import IR_VERSION
from intaglio.compiler.ir.functions import OPSET

Translations = Mapping[Callable[..., Any], Callable[..., Any]]

NO_TRANSLATIONS: Translations = MappingProxyType({})


def export_module(
    module: torch.nn.Module,
    arguments: tuple[Any, ...],
    keywords: Mapping[str, Any] | None = None,
    dynamic_shapes: Any | None = None,
    translations: Translations = NO_TRANSLATIONS,
) -> ir.Model:
    """`module`, called as `module(*arguments, **keywords)` in eval mode, as a graph of opset 25.

    `dynamic_shapes` is as `torch.export.export` takes it, or with names in place of `torch.export.Dim`s; a
    name is the name of the size in the graph. `translations` maps torch operators to functions over
    `onnxscript` values, and comes before the exporter's own rules. Initialisers are named as in the module's
    state dict, share its memory, and stand once where weights are tied; those on the meta device have a shape
    and no value. Functions are inlined; nodes keep where they come from in metadata
    (`pkg.torch.onnx.name_scopes`). `module` is not changed.
    Raises `UnsupportedModelError` that lists what cannot be converted, and `OptionError` for shapes that do
    not fit the arguments.
    """
    return translate(capture(module, arguments, keywords or {}, dynamic_shapes), module, translations)


def translate(
    captured: Captured, module: torch.nn.Module, translations: Translations = NO_TRANSLATIONS
) -> ir.Model:
    """The graph of a captured `module`; see `export_module`."""
    table = {**rules(), **translations}
    message = f"trace: {type(module).__qualname__} cannot be written as ONNX:"
    with quiet():
        try:
            exported = _exported(captured.program, table)
        except Exception as error:  # the exporter wraps whatever happened inside it
            problems = translation_problems(captured.program, table, error)
            raise UnsupportedModelError(message, problems) from error
    if problems := program_problems(exported.exported_program or captured.program):
        raise UnsupportedModelError(message, problems)
    model = exported.model
    model.ir_version = IR_VERSION
    model.graph.metadata_props.clear()  # the program's signature as text
    share_weights(model, module)
    own_outputs(model.graph)
    rename_dimensions(model, captured)
    return model


def _exported(program: torch.export.ExportedProgram, table: Translations) -> torch.onnx.ONNXProgram:
    exported = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        optimize=False,
        verbose=False,
        custom_translation_table=dict(table),
    )
    assert exported is not None, "the dynamo exporter returns a program"
    return exported
