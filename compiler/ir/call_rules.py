"""What holds of calls: of functions of the model, and of operators that onnxruntime has besides ONNX's."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from intaglio.compiler.ir.bodies import Body, bodies
from intaglio.compiler.ir.functions import DOMAIN
from intaglio.compiler.ir.rules import at


def calls_resolve(model: ir.Model) -> Iterator[str]:
    """Ops of other domains than the standard one are functions of the model."""
    for body, node in _foreign(model):
        if node.op_identifier() not in model.functions:
            yield f"{body.place}: {at(node)} calls an undefined function of overload {node.overload!r}"
        elif node.domain not in body.opsets:
            yield f"{body.place}: domain {node.domain!r} of {at(node)} is not imported"


def calls_resolve_or_run(model: ir.Model) -> Iterator[str]:
    """The same, or operators of onnxruntime."""
    undefined = [node for _, node in _foreign(model) if node.op_identifier() not in model.functions]
    known = _runtime_operators() if undefined else set()
    for body, node in _foreign(model):
        name = f"{node.domain}.{node.op_type}"
        if node.op_identifier() not in model.functions and name not in known:
            yield f"{body.place}: {at(node)} calls {name}, which neither the model nor onnxruntime defines"
        elif node.domain not in body.opsets:
            yield f"{body.place}: domain {node.domain!r} of {at(node)} is not imported"


def calls_fit_their_functions(model: ir.Model) -> Iterator[str]:
    """Calls pass all inputs and attributes, and no others."""
    for body, node in _foreign(model):
        function = model.functions.get(node.op_identifier())
        if function is not None:
            yield from (f"{body.place}: {at(node)} {problem}" for problem in _misfits(node, function))


def calls_fit_our_functions(model: ir.Model) -> Iterator[str]:
    """The same for our functions; those of others may leave out inputs and attributes, as ONNX allows."""
    for body, node in _foreign(model):
        function = model.functions.get(node.op_identifier())
        if function is not None and node.domain == DOMAIN:
            yield from (f"{body.place}: {at(node)} {problem}" for problem in _misfits(node, function))


def _runtime_operators() -> set[str]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # only models with such ops pay for it

    return {f"{one.domain}.{one.name}" for one in state.get_all_operator_schema()}


def _foreign(model: ir.Model) -> Iterator[tuple[Body, ir.Node]]:
    """Nodes of other domains than the standard one, each with its body."""
    return ((body, node) for body in bodies(model) for node in body.content if node.domain != "")


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
