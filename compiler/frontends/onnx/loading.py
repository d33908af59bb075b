"""The protobuf of a model: read from a file, or made from an `onnx_ir.Model` without its weights."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

from intaglio.compiler.errors import ModelFileError

_LARGEST = 2**31 - 1  # bytes of one protobuf message
_SMALL = 1024  # bytes; smaller tensors may be shapes and axes, which shape inference reads


def read_proto(path: Path) -> onnx.ModelProto:
    """The model in the file, external data left where it is. Raises `ModelFileError`."""
    size = path.stat().st_size
    if size > _LARGEST:
        raise ModelFileError(
            f"onnx: {path} has {size} bytes, protobuf ends at {_LARGEST}: save its weights as external data."
        )
    if not size:
        raise ModelFileError(f"onnx: {path} is empty; download or export it again.")
    try:
        return onnx.load_model_from_string(path.read_bytes())
    except Exception as error:  # DecodeError, of whichever protobuf implementation is installed
        raise ModelFileError(
            f"onnx: {path} is truncated or no ONNX file ({error}); download or export it again."
        ) from error


def without_weights(model: ir.Model) -> onnx.ModelProto:
    """`model` as protobuf in which all but small initialisers are references to files that do not exist."""
    light = model.clone()
    for graph in light.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.nbytes > _SMALL:
                value.const_value = _reference(value.name or "", tensor)
    return ir.serde.serialize_model(light)


def _reference(name: str, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
    shape = ir.Shape(tensor.shape.numpy())
    return ir.ExternalTensor("weights", 0, tensor.nbytes, tensor.dtype, shape=shape, name=name)
