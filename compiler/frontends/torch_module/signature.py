"""Names for the inputs and outputs of an exported graph, and how nested arguments and results map to them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import onnx_ir as ir
import torch
from torch.export.graph_signature import ConstantArgument, OutputKind
from torch.utils import _pytree as pytree

from intaglio.compiler.frontends.call_signature import CallSignature, Fixed, Structure
from intaglio.compiler.frontends.torch_module.capture import Captured

RESULT = "output"  # what a result without a name of its own is called
CONSTANTS = (bool, int, float, str)


def name_ports(model: ir.Model, captured: Captured, module: torch.nn.Module) -> CallSignature:
    """Name inputs and outputs of `model` after their places in the call, and describe the call.

    `f(x, pair=(a, b)) -> {"logits": y}` has the inputs `x`, `pair.0`, `pair.1` and the output `logits`.
    Values inside dataclasses and the like are told as dicts. Where another value has the name, "input." or
    "output." comes before it.
    """
    parameters = _parameters(module)
    example = captured.example
    inputs = _Ports(model, model.graph.inputs, "input")
    places = chain(parameters, map(str, range(len(parameters), len(example.arguments))))
    arguments = tuple(inputs.named(one, place) for one, place in zip(example.arguments, places, strict=False))
    keywords = {name: inputs.named(one, name) for name, one in example.keywords.items()}
    outputs = _Ports(model, model.graph.outputs, "output")
    result = outputs.named(_result(captured.program), "")
    return CallSignature(arguments, keywords, result, parameters)


def _parameters(module: torch.nn.Module) -> tuple[str, ...]:
    """Names of the parameters that may be given by position or by name."""
    either = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return tuple(
        one.name for one in inspect.signature(module.forward).parameters.values() if one.kind is either
    )


def _result(program: torch.export.ExportedProgram) -> Any:
    """The nested result with an empty tensor for every graph output; constants as they are."""
    specs = [one for one in program.graph_signature.output_specs if one.kind is OutputKind.USER_OUTPUT]
    leaves = [
        one.arg.value if isinstance(one.arg, ConstantArgument) else torch.empty(0, device="meta")
        for one in specs
    ]
    spec = program.call_spec.out_spec
    assert spec is not None, "an exported program knows its result"
    return pytree.tree_unflatten(leaves, spec)


class _Ports:
    """Names values of a graph in order."""

    def __init__(self, model: ir.Model, values: Sequence[ir.Value], kind: str) -> None:
        self._values = iter(values)
        self._kind = kind
        self._taken = {value.name for value in _all_values(model.graph)}

    def named(self, nest: Any, place: str) -> Structure:
        """`nest` with names in place of tensors; `place` is where it stands in the call."""
        if isinstance(nest, torch.Tensor):
            return self._name(next(self._values), place or self._kind)
        if nest is None or isinstance(nest, CONSTANTS):
            return None if nest is None else Fixed(nest)
        if dataclasses.is_dataclass(nest):
            nest = nest if isinstance(nest, Mapping) else _fields(nest)
        if isinstance(nest, Mapping):
            return {str(key): self.named(one, _joined(place, key)) for key, one in nest.items()}
        prefix = place or self._kind
        return (tuple if isinstance(nest, tuple) else list)(
            self.named(one, _joined(prefix, index)) for index, one in enumerate(nest)
        )

    def _name(self, value: ir.Value, name: str) -> str:
        if value.name != name:
            name = f"{self._kind}.{name}" if name in self._taken else name
            self._taken.add(name)
            value.name = name
        return name


def _fields(one: Any) -> dict[str, Any]:
    return {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}


def _joined(place: str, key: object) -> str:
    return f"{place}.{key}" if place else str(key)


def _all_values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in ir.traversal.RecursiveGraphIterator(graph):
        yield from node.outputs
