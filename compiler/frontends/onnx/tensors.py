"""Stored tensors: types that can be compiled, and as many bytes as shape and type say."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import onnx
import onnx_ir as ir

from intaglio.compiler.frontends.onnx.bodies import Body, at, bodies
from intaglio.compiler.frontends.onnx.problems import Problems

# What is wrong with the place of an external tensor of so many bytes.
PlaceCheck = Callable[[onnx.TensorProto, int], Iterable[str]]

_UNUSABLE = (ir.DataType.UNDEFINED, ir.DataType.STRING)
_COMPLEX = (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128)
_FIELDS = {
    "float_data": (ir.DataType.FLOAT, ir.DataType.COMPLEX64),
    "double_data": (ir.DataType.DOUBLE, ir.DataType.COMPLEX128),
    "int64_data": (ir.DataType.INT64,),
    "uint64_data": (ir.DataType.UINT64, ir.DataType.UINT32),
}


def stored_tensors(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Every initialiser and every tensor in an attribute, each with the words that name it in messages."""
    for body in bodies(model):
        if isinstance(body.content, onnx.GraphProto):
            yield from ((f"{body.place}: initialiser {one.name!r}", one) for one in body.content.initializer)
        for node in body.content.node:
            yield from ((f"{body.place}: the tensor of {at(node)}", one) for one in _in_attributes(node))


def check_tensors(model: onnx.ModelProto, place: PlaceCheck, problems: Problems) -> None:
    """Add what is wrong with types, sizes and, by `place`, places of stored tensors."""
    for name, tensor in stored_tensors(model):
        if tensor.data_type == onnx.TensorProto.STRING:
            problems.add(unsupported=[f"{name} holds strings: numbers alone can be compiled"])
        else:
            problems.add(broken=[f"{name} {one}" for one in _tensor_problems(tensor, place)])
    for body in bodies(model):
        problems.add(unsupported=_sparse(body), broken=_misdeclared(body))


def type_of(number: int) -> ir.DataType | None:
    """The element type of that number in the ONNX format; none for a number without a meaning."""
    try:
        return ir.DataType(number)
    except ValueError:
        return None


def _in_attributes(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors


def _tensor_problems(tensor: onnx.TensorProto, place: PlaceCheck) -> Iterator[str]:
    dtype = type_of(tensor.data_type)
    if dtype is None or dtype in _UNUSABLE:
        yield f"has the unknown element type {tensor.data_type}"
        return
    if any(one < 0 for one in tensor.dims):
        yield f"has the shape {list(tensor.dims)}"
        return
    size = math.prod(tensor.dims)
    nbytes = -(-size * dtype.bitwidth // 8)
    if tensor.HasField("segment"):
        yield "is cut into segments, which onnx no longer defines"
    elif tensor.data_location == onnx.TensorProto.EXTERNAL:
        yield from place(tensor, nbytes)
    elif tensor.HasField("raw_data"):
        if len(tensor.raw_data) != nbytes:
            yield f"holds {len(tensor.raw_data)} bytes; {dtype.name} {list(tensor.dims)} needs {nbytes}"
    else:
        yield from _field_problems(tensor, dtype, size)


def _field_problems(tensor: onnx.TensorProto, dtype: ir.DataType, size: int) -> Iterator[str]:
    """Numbers stored one by one instead of as bytes."""
    field = next((name for name, types in _FIELDS.items() if dtype in types), "int32_data")
    needed = 2 * size if dtype in _COMPLEX else size
    if dtype.bitwidth < 8:
        needed = -(-size * dtype.bitwidth // 8)
    count = len(getattr(tensor, field))
    if count != needed:
        yield f"holds {count} numbers in {field}; {dtype.name} {list(tensor.dims)} needs {needed}"


def _sparse(body: Body) -> Iterator[str]:
    if isinstance(body.content, onnx.GraphProto):
        for one in body.content.sparse_initializer:
            yield f"{body.place}: initialiser {one.values.name!r} is sparse: store it as a dense tensor"
    for node in body.content.node:
        if any(one.HasField("sparse_tensor") or one.sparse_tensors for one in node.attribute):
            yield f"{body.place}: {at(node)} holds a sparse tensor: store it as a dense one"


def _misdeclared(body: Body) -> Iterator[str]:
    """Initialisers that an input or a value description of their name declares otherwise."""
    if not isinstance(body.content, onnx.GraphProto):
        return
    stored = {one.name: one for one in body.content.initializer}
    for info in (*body.content.input, *body.content.value_info):
        tensor = stored.get(info.name)
        if tensor is None or not info.type.HasField("tensor_type"):
            continue
        declared, place = info.type.tensor_type, f"{body.place}: initialiser {info.name!r}"
        if declared.elem_type and declared.elem_type != tensor.data_type:
            yield f"{place} has type {_name(tensor.data_type)}, declared {_name(declared.elem_type)}"
        if declared.HasField("shape") and not _agrees(declared.shape, list(tensor.dims)):
            yield f"{place} has shape {list(tensor.dims)}, declared {_shown(declared.shape)}"


def _agrees(declared: onnx.TensorShapeProto, dims: list[int]) -> bool:
    if len(declared.dim) != len(dims):
        return False
    pairs = zip(declared.dim, dims, strict=True)
    return all(not one.HasField("dim_value") or one.dim_value == size for one, size in pairs)


def _shown(declared: onnx.TensorShapeProto) -> list[int | str]:
    return [one.dim_value if one.HasField("dim_value") else one.dim_param or "?" for one in declared.dim]


def _name(number: int) -> str:
    dtype = type_of(number)
    return str(number) if dtype is None else dtype.name
