"""From protobuf or a caller's `onnx_ir.Model` to a model of our own, which passes may change."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import (
    NameFixPass,
    RemoveInitializersFromInputsPass,
    RemoveUnusedFunctionsPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
    TopologicalSortPass,
)
from onnx_ir.passes.common.naming import SimpleNameGenerator

from intaglio.compiler.frontends.onnx.bodies import STANDARD, ir_bodies
from intaglio.compiler.ir.builder import IR_VERSION


def from_file(proto: onnx.ModelProto, folder: Path) -> ir.Model:
    """The model in `proto`, which belongs to us; external tensors stay in their files in `folder`, mapped."""
    model = ir.serde.deserialize_model(proto)
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = _located(value.const_value, folder)
    for body in ir_bodies(model):
        for node in ir.traversal.RecursiveGraphIterator(body):
            _locate_attributes(node, folder)
    return model


def share_tensors(model: ir.Model) -> None:
    """Let the initialisers of `model`, copied from a caller's, share bytes with those, but not names."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = _shared(value.const_value)


def tidy(model: ir.Model) -> None:
    """Bring `model` into the form that the invariants ask for; its meaning stays.

    Nodes are put into order and named, unused ones removed. An input with a default value becomes that value,
    as onnxruntime's own list of inputs has it.
    """
    for body in ir_bodies(model):
        _unify_domain(body)
    TopologicalSortPass()(model)
    RemoveInitializersFromInputsPass()(model)
    RemoveUnusedNodesPass()(model)
    RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    RemoveUnusedOpsetsPass()(model)
    for graph in model.graphs():
        _open_sizes(graph)
    fix_names(model)
    model.ir_version = max(model.ir_version, IR_VERSION)


def _located(tensor: ir.ExternalTensor, folder: Path) -> ir.ExternalTensor:
    # Without a base folder onnx_ir checks no path: ours are checked already, and it refuses hard links,
    # which files of installed packages often are.
    path = (folder / tensor.location).resolve()
    return ir.ExternalTensor(
        path, tensor.offset, tensor.length, tensor.dtype, shape=tensor.shape, name=tensor.name
    )


def fix_names(model: ir.Model) -> None:
    """Give every node and value a name of its own; a node without one takes that of its first output."""
    NameFixPass(_Names())(model)


class _Names(SimpleNameGenerator):
    def generate_node_name(self, node: ir.Node) -> str:
        return node.name or (node.outputs[0].name if node.outputs else None) or node.op_type


def _locate_attributes(node: ir.Node, folder: Path) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
            node.attributes[name] = ir.AttrTensor(name, _located(attribute.value, folder))


def _shared(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if isinstance(tensor, ir.ExternalTensor):
        return _located(tensor, Path(tensor.base_dir))
    shape = ir.Shape(tensor.shape.numpy())
    return ir.LazyTensor(lambda: tensor, tensor.dtype, shape, name=tensor.name)


def _unify_domain(body: ir.Graph | ir.Function) -> None:
    for node in ir.traversal.RecursiveGraphIterator(body):
        if node.domain in STANDARD:
            node.domain = ""
    version = body.opset_imports.pop("ai.onnx", None)
    if version is not None:
        body.opset_imports[""] = version


def _open_sizes(graph: ir.Graph) -> None:
    """Sizes that exporters write as -1 or `?` are unknown, and two of them need not be equal."""
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape(_open(one) for one in value.shape)


def _open(size: int | ir.SymbolicDim) -> int | ir.SymbolicDim | None:
    if isinstance(size, int):
        return size if size >= 0 else None
    return None if size.value == "?" else size
