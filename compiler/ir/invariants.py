"""The invariants of the IR, in one table; `check` is called between passes under test and after tracing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.compiler.errors import InvariantError
from intaglio.compiler.ir.blocks import block_problems, is_blocked
from intaglio.compiler.ir.functions import OPSET


@dataclass(frozen=True)
class Invariant:
    """One rule: `violations` yields a sentence for every place that breaks it."""

    name: str
    violations: Callable[[ir.Model], Iterator[str]]


def check(model: ir.Model) -> None:
    """Raise `InvariantError` that lists every broken invariant; see `INVARIANTS`."""
    problems = [f"{one.name}: {found}" for one in INVARIANTS for found in one.violations(model)]
    if problems:
        listed = "\n  - ".join(problems)
        raise InvariantError(f"[invariants] {len(problems)} broken; fix the last pass:\n  - {listed}")


def _opset_is_recent(model: ir.Model) -> Iterator[str]:
    version = model.opset_imports.get("")
    if version is None or version < OPSET:
        yield f"the model imports opset {version}"
    for function in model.functions.values():
        used = function.opset_imports.get("")
        if used is not None and used < OPSET:
            yield f"function {function.name} imports opset {used}"


def _values_are_defined_before_use(model: ir.Model) -> Iterator[str]:
    for place, body in _bodies(model):
        defined = set(body.inputs)
        if isinstance(body, ir.Graph):
            defined |= set(body.initializers.values())
        for node in body:
            for value in node.inputs:
                if value is not None and value not in defined:
                    yield f"{place}: {_at(node)} uses {value.name!r}, which is not defined before it"
            defined |= set(node.outputs)


def _outputs_are_produced(model: ir.Model) -> Iterator[str]:
    for place, body in _bodies(model):
        own = {value for node in body for value in node.outputs}
        available = own | set(body.inputs)
        if isinstance(body, ir.Graph):
            available |= set(body.initializers.values())
        for value in body.outputs:
            if value not in available:
                yield f"{place}: nothing produces output {value.name!r}"


def _no_dead_nodes(model: ir.Model) -> Iterator[str]:
    for place, body in _bodies(model):
        kept = set(body.outputs)
        for node in body:
            if not any(value.uses() or value in kept for value in node.outputs):
                yield f"{place}: nothing uses the outputs of {_at(node)}"


def _initializers_have_values(model: ir.Model) -> Iterator[str]:
    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            yield f"initialiser {name!r} has no value"
        elif value.shape is None or value.shape != value.const_value.shape:
            yield f"initialiser {name!r} is declared {value.shape}, its value is {value.const_value.shape}"


def _functions_hold_no_initializers(model: ir.Model) -> Iterator[str]:
    for function in model.functions.values():
        for name in function.graph.initializers:
            yield f"function {function.name}: initialiser {name!r}; make it an input or a Constant"


def _names_are_unique(model: ir.Model) -> Iterator[str]:
    for place, body in _bodies(model):
        values = [*body.inputs, *(value for node in body for value in node.outputs)]
        values += body.initializers.values() if isinstance(body, ir.Graph) else []
        for kind, names in (("value", [one.name for one in values]), ("node", [one.name for one in body])):
            yield from (f"{place}: {count} {kind}s are named {name!r}" for name, count in _repeated(names))


def _calls_resolve(model: ir.Model) -> Iterator[str]:
    for place, body in _bodies(model):
        for node in body:
            if node.domain == "":
                continue
            if node.op_identifier() not in model.functions:
                yield f"{place}: {_at(node)} calls an undefined function of overload {node.overload!r}"
            elif node.domain not in body.opset_imports:
                yield f"{place}: domain {node.domain!r} of {_at(node)} is not imported"


def _calls_fit_their_functions(model: ir.Model) -> Iterator[str]:
    for place, body in _bodies(model):
        for node in body:
            function = model.functions.get(node.op_identifier())
            if function is not None:
                yield from (f"{place}: {_at(node)} {problem}" for problem in _misfits(node, function))


def _no_subgraphs(model: ir.Model) -> Iterator[str]:
    for place, body in _bodies(model):
        for node in body:
            kinds = {attribute.type for attribute in node.attributes.values()}
            if kinds & {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}:
                yield f"{place}: {_at(node)} holds a subgraph"


def _blocks_agree(model: ir.Model) -> Iterator[str]:
    for place, body in _bodies(model):
        for node in body:
            if is_blocked(node):
                yield from (f"{place}: {_at(node)} {problem}" for problem in block_problems(node))


INVARIANTS = (
    Invariant("opset 25 or later", _opset_is_recent),
    Invariant("values are defined before use", _values_are_defined_before_use),
    Invariant("outputs are produced", _outputs_are_produced),
    Invariant("every node is used", _no_dead_nodes),
    Invariant("initialisers have values of the declared shape", _initializers_have_values),
    Invariant("functions hold no initialisers", _functions_hold_no_initializers),
    Invariant("names are unique", _names_are_unique),
    Invariant("calls resolve", _calls_resolve),
    Invariant("calls fit their functions", _calls_fit_their_functions),
    Invariant("no subgraphs", _no_subgraphs),
    Invariant("scales fit their codes", _blocks_agree),
)


def _bodies(model: ir.Model) -> Iterator[tuple[str, ir.Graph | ir.Function]]:
    yield "graph", model.graph
    for function in model.functions.values():
        yield f"function {function.name}", function


def _misfits(node: ir.Node, function: ir.Function) -> Iterator[str]:
    if len(node.inputs) != len(function.inputs) or len(node.outputs) != len(function.outputs):
        passed, declared = (
            f"{len(node.inputs)}→{len(node.outputs)}",
            f"{len(function.inputs)}→{len(function.outputs)}",
        )
        yield f"passes {passed} values, the function has {declared}"
    required = {name for name, attribute in function.attributes.items() if attribute.value is None}
    for name in sorted(required - set(node.attributes)):
        yield f"lacks attribute {name!r}"
    for name in sorted(set(node.attributes) - set(function.attributes)):
        yield f"has attribute {name!r}, which the function does not"


def _repeated(names: Sequence[str | None]) -> list[tuple[str | None, int]]:
    return [(name, count) for name, count in Counter(names).items() if count > 1 or not name]


def _at(node: ir.Node) -> str:
    return f"{node.op_type} {node.name!r}"
