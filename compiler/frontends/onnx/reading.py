"""From a file, a `ModelProto` or an `onnx_ir.Model` to a checked model of our own, still on its own opset."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import onnx
import onnx_ir as ir

from intaglio.compiler.errors import ModelFileError
from intaglio.compiler.frontends.onnx.external import (
    external_files,
    external_problems,
    homeless,
    mapped_problems,
)
from intaglio.compiler.frontends.onnx.importing import fix_names, from_file, share_tensors
from intaglio.compiler.frontends.onnx.loading import read_proto, without_weights
from intaglio.compiler.frontends.onnx.problems import Problems
from intaglio.compiler.frontends.onnx.tensors import stored_tensors
from intaglio.compiler.frontends.onnx.validation import validate
from intaglio.compiler.frontends.traced import Source
from intaglio.compiler.ir.rules import values_are_defined_before_use


def read_file(path: Path) -> tuple[ir.Model, Source]:
    """The model in the file at `path`. Raises `ModelFileError` and `UnsupportedModelError`."""
    proto = read_proto(path)
    folder = path.absolute().parent
    validate(proto, name=str(path), place=partial(external_problems, model=path))
    files = external_files((tensor for _, tensor in stored_tensors(proto)), folder)
    nbytes = path.stat().st_size + sum(one.stat().st_size for one in files)
    return from_file(proto, folder), Source(str(path.resolve()), nbytes, path)


def read_model_proto(proto: onnx.ModelProto) -> tuple[ir.Model, Source]:
    """A copy of `proto` that shares its bytes. Raises `ModelFileError` and `UnsupportedModelError`."""
    name = _name("onnx.ModelProto", proto.graph.name)
    validate(proto, name=name, place=homeless)
    model = ir.serde.deserialize_model(proto)
    share_tensors(model)
    return model, Source(name, _stored_bytes(model))


def read_model(original: ir.Model) -> tuple[ir.Model, Source]:
    """A copy of `original` that shares its bytes. Raises `ModelFileError` and `UnsupportedModelError`.

    Its nodes must stand in an order in which they can run, as copying needs it; files may have any order.
    """
    name = _name("onnx_ir.Model", original.graph.name)
    problems = Problems(name)
    problems.add(broken=[*values_are_defined_before_use(original), *_misplaced(original)])
    problems.raise_any()
    model = original.clone()
    share_tensors(model)
    _name_everything(model)
    validate(without_weights(model), name=name, place=lambda *_: ())
    return model, Source(name, _stored_bytes(model))


def _name(kind: str, graph: str | None) -> str:
    return f"{kind} {graph}" if graph else kind


def _stored_bytes(model: ir.Model) -> int:
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)


def _misplaced(model: ir.Model) -> Iterator[str]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is None:
                yield f"initialiser {value.name!r} has no value"
            elif isinstance(value.const_value, ir.ExternalTensor):
                yield from mapped_problems(value.const_value)


def _name_everything(model: ir.Model) -> None:
    try:
        fix_names(model)
    except ValueError as error:
        raise ModelFileError(f"onnx: the names of the model cannot be made unique: {error}") from error
