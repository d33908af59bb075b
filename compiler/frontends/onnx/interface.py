"""Inputs and outputs: dense tensors of numbers, as arrays are given and returned."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from intaglio.compiler.frontends.onnx.problems import Problems
from intaglio.compiler.frontends.onnx.tensors import type_of

_KINDS = {
    "sequence_type": "a sequence",
    "optional_type": "optional",
    "map_type": "a map",
    "sparse_tensor_type": "a sparse tensor",
    "opaque_type": "opaque",
}


def check_interface(graph: onnx.GraphProto, problems: Problems) -> None:
    """Add inputs and outputs that have no type, or one that no array has."""
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            name = f"{kind} {value.name!r}"
            problems.add(unsupported=[f"{name} {one}" for one in _unsupported(value)])
            problems.add(broken=[f"{name} {one}" for one in _broken(value, kind)])
    if not graph.output:
        problems.add(broken=["the graph has no outputs"])


def _unsupported(value: onnx.ValueInfoProto) -> Iterator[str]:
    kind = value.type.WhichOneof("value")
    if kind in _KINDS:
        yield f"is {_KINDS[kind]}: tensors alone can be passed in and out"
    elif value.type.tensor_type.elem_type == onnx.TensorProto.STRING:
        yield "is a tensor of strings: numbers alone can be compiled"


def _broken(value: onnx.ValueInfoProto, kind: str) -> Iterator[str]:
    if value.type.WhichOneof("value") is None:
        if kind == "input":
            yield "has no type"
        return
    if not value.type.HasField("tensor_type"):
        return
    tensor = value.type.tensor_type
    dtype = type_of(tensor.elem_type)
    if dtype is None or (dtype == ir.DataType.UNDEFINED and kind == "input"):
        yield f"has the unknown element type {tensor.elem_type}"
