"""The bodies of a model as protobuf: the main graph, functions, and the graphs inside nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir

STANDARD = ("", "ai.onnx")  # two spellings of one domain


@dataclass(frozen=True)
class Body:
    """A list of nodes with the place where it stands, its opsets, and the function it belongs to, if any."""

    place: str
    content: onnx.GraphProto | onnx.FunctionProto
    opsets: Mapping[str, int]
    function: onnx.FunctionProto | None = None


def bodies(model: onnx.ModelProto) -> Iterator[Body]:
    """Every body, outer ones before those inside them."""
    yield from _within(Body("graph", model.graph, opsets_of(model)))
    for function in model.functions:
        place = f"function {function.domain}.{function.name}"
        yield from _within(Body(place, function, opsets_of(function), function))


def ir_bodies(model: ir.Model) -> tuple[ir.Graph | ir.Function, ...]:
    """The main graph and the functions of a model that is no longer protobuf."""
    return (model.graph, *model.functions.values())


def opsets_of(holder: onnx.ModelProto | onnx.FunctionProto) -> dict[str, int]:
    """Version by domain, the standard domain being ''."""
    return {domain_of(one): one.version for one in holder.opset_import}


def domain_of(holder: onnx.NodeProto | onnx.FunctionProto | onnx.OperatorSetIdProto) -> str:
    """The domain, the standard one being ''."""
    return "" if holder.domain in STANDARD else holder.domain


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs that `node` holds, in the order of its attributes."""
    found = []
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found.append(attribute.g)
        found += attribute.graphs
    return found


def at(node: onnx.NodeProto) -> str:
    """How messages name `node`."""
    return f"{node.op_type} {node.name or ', '.join(node.output)!r}"


def _within(body: Body) -> Iterator[Body]:
    yield body
    for node in body.content.node:
        for graph in subgraphs(node):
            inner = Body(f"{body.place} / {at(node)}", graph, body.opsets, body.function)
            yield from _within(inner)
