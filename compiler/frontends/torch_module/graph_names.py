"""Names in an exported graph: sizes as users call them, and outputs that are values of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import onnx_ir as ir
import torch

from intaglio.compiler.frontends.torch_module.capture import Captured


def rename_dimensions(model: ir.Model, captured: Captured) -> None:
    """Call sizes what the user calls them, in all shapes; unnamed ones after an input and an axis."""
    names = _symbols(captured)
    if not names:
        return
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
    for value in _values(model):
        if value.shape is not None:
            value.shape = ir.Shape(_renamed(one, pattern, names) for one in value.shape)


def own_outputs(graph: ir.Graph) -> None:
    """Give each output a value of its own: an input, a weight or another output is copied."""
    seen: set[ir.Value] = set()
    for index, value in enumerate(graph.outputs):
        if value.producer() is None or value in seen:
            graph.outputs[index] = _copy(graph, value)
        seen.add(value)


def _copy(graph: ir.Graph, value: ir.Value) -> ir.Value:
    copy = ir.Value(type=value.type, shape=value.shape)
    graph.append(ir.Node("", "Identity", [value], outputs=[copy]))
    return copy


def _symbols(captured: Captured) -> dict[str, str]:
    found: dict[str, str] = {}
    inputs = _user_inputs(captured.program)
    for node, names in zip(inputs, captured.example.names, strict=True):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            for axis, size in enumerate(value.shape):
                if isinstance(size, torch.SymInt):
                    found.setdefault(str(size), names.get(axis, f"{node.name}_{axis}"))
    return {symbol: name for symbol, name in found.items() if symbol.isidentifier()}


def _user_inputs(program: torch.export.ExportedProgram) -> list[torch.fx.Node]:
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    kinds = [spec.kind for spec in program.graph_signature.input_specs]
    wanted = torch.export.graph_signature.InputKind.USER_INPUT
    return [node for node, kind in zip(placeholders, kinds, strict=True) if kind is wanted]


def _renamed(
    size: int | ir.SymbolicDim, pattern: re.Pattern[str], names: Mapping[str, str]
) -> int | str | None:
    if isinstance(size, int) or size.value is None:
        return size if isinstance(size, int) else None
    return pattern.sub(lambda match: names[match[0]], size.value)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.inputs
    yield from model.graph.initializers.values()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        yield from node.outputs
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                yield from attribute.as_graph().inputs
