"""What is wrong with a module that cannot be captured or translated: all of it, with a way round."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import getitem
from typing import Any

import torch
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind

from intaglio.compiler.frontends.torch_module.data_dependence import data_dependent_places
from intaglio.compiler.frontends.torch_module.dimensions import Example
from intaglio.compiler.frontends.torch_module.places import Places
from intaglio.compiler.ir.functions import OPSET

_NODE = re.compile(r"translating node %(\w+)")
_NO_STATE = "a compiled graph has no state: take it as an argument and return the new value"
_CHANGES = {
    OutputKind.BUFFER_MUTATION: ("buffer", _NO_STATE),
    OutputKind.PARAMETER_MUTATION: ("parameter", _NO_STATE),
    OutputKind.USER_INPUT_MUTATION: ("argument", "a compiled graph leaves its inputs alone: work on a copy"),
}

Table = Mapping[Callable[..., Any], Callable[..., Any]]


def capture_problems(module: torch.nn.Module, example: Example, error: Exception) -> list[str]:
    """Why `torch.export` failed with `error`."""
    if "Constraints violated" in str(error) or "dynamic_shapes" in str(error):
        return _shape_problems(str(error))
    found = data_dependent_places(module, example.arguments, example.keywords)
    problems = [
        f"{one} decides what is computed: use torch.where, or torch.cond with two functions" for one in found
    ]
    if not problems:
        problems.append(f"{Places(module).of_error(error)}: {type(error).__name__}: {_first_lines(error)}")
    return problems


def program_problems(program: torch.export.ExportedProgram) -> list[str]:
    """What a captured and decomposed program does that no graph can."""
    signature = program.graph_signature
    changes = [(*_CHANGES[one.kind], one.target) for one in signature.output_specs if one.kind in _CHANGES]
    problems = [f"the {what} {name!r} is changed: {remedy}" for what, remedy, name in changes]
    results = [one.arg for one in signature.output_specs if one.kind is OutputKind.USER_OUTPUT]
    problems += [
        f"result {index} is the constant {one.value!r}: return tensors and None only"
        for index, one in enumerate(results)
        if isinstance(one, ConstantArgument) and one.value is not None
    ]
    kinds = {spec.arg.name: spec.kind for spec in signature.input_specs if hasattr(spec.arg, "name")}
    for node in program.graph.nodes:
        is_argument = node.op == "placeholder" and kinds.get(node.name) is InputKind.USER_INPUT
        value = node.meta.get("val")
        if is_argument and isinstance(value, torch.Tensor) and value.is_complex():
            problems.append(f"argument {node.name!r} is complex: take torch.view_as_real of it instead")
    return problems


def translation_problems(program: torch.export.ExportedProgram, table: Table, error: Exception) -> list[str]:
    """Why the ONNX exporter failed with `error`: every operator without a rule, else the failure itself."""
    # The exporter stops at the first; its own registry tells about all.
    from torch.onnx._internal.exporter import _core, _dispatching, _registration

    registry = _registration.ONNXRegistry.from_torchlib(opset_version=OPSET)
    for operator, function in table.items():
        registry.register_op(operator, function)
    prepared = _core._prepare_exported_program_for_export(program, registry=registry)
    parts = [one for one in prepared.graph_module.modules() if isinstance(one, torch.fx.GraphModule)]
    found = [line for one in parts for line in _undispatched(one.graph, registry, _dispatching.dispatch)]
    return [*program_problems(prepared), *(dict.fromkeys(found) or [_failure(parts, error)])]


def _failure(parts: Sequence[torch.fx.GraphModule], error: BaseException) -> str:
    """What a rule of the exporter stumbled over, and for which call of which module."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    reason = _first_lines(chain[-1])
    named = [found[1] for one in chain if (found := _NODE.search(str(one))) is not None]
    nodes = [node for one in parts for node in one.graph.nodes if node.name in named[-1:]]
    return f"{_node_place(nodes[0])}: {nodes[0].target}: {reason}" if nodes else reason


def _undispatched(graph: torch.fx.Graph, registry: Any, dispatch: Callable[..., Any]) -> Iterator[str]:
    for node in graph.nodes:
        is_call = node.op == "call_function" and node.target is not getitem
        if is_call and dispatch(node, registry)[0] is None:
            yield f"{_node_place(node)}: {node.target} has no ONNX equivalent: write it with other operators"


def _node_place(node: torch.fx.Node) -> str:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path, kind = stack[-1] if stack else ("", "")
    name = kind if isinstance(kind, str) else kind.__qualname__
    return f"{path} ({name.rsplit('.', 1)[-1]})" if path else name.rsplit(".", 1)[-1] or "the module"


def _shape_problems(message: str) -> list[str]:
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    reasons = [line for line in lines if "dynamic" in line.lower() or " = L[" in line or "Not all" in line]
    fixes = message.partition("Suggested fixes:")[2].partition("\n\n")[0].split("\n")
    suggested = [f"suggested in dynamic_shapes: {one.strip()}" for one in fixes if one.strip()]
    return [*(one for one in reasons if not one.startswith("Constraints violated")), *suggested] or [lines[0]]


def _first_lines(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.split("\n\n")[0]
