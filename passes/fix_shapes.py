"""A graph for calls of one kind: shapes fixed, what follows from them folded, branches chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import InlinePass, NameFixPass, RemoveUnusedNodesPass

from intaglio.passes.normalize.clean_up import CleanUp
from intaglio.passes.normalize.fold_constants import FoldConstants
from intaglio.passes.normalize.infer_shapes import InferShapes
from intaglio.passes.rewriting import constant, described, insert, sizes, supersede, take_over

MOST_ROUNDS = 8


def fixed_model(model: ir.Model, shapes: Mapping[str, tuple[int, ...]], fixed: Mapping[str, Any]) -> ir.Model:
    """A copy of `model` for inputs of these shapes and values, functions inlined; `model` stays the same."""
    copy = model.clone()
    InlinePass()(copy)
    _fix_inputs(copy, shapes, fixed)
    for node in copy.graph:
        for value in node.outputs:
            value.shape = None
    _settle(copy)
    return copy


def _fix_inputs(model: ir.Model, shapes: Mapping[str, tuple[int, ...]], fixed: Mapping[str, Any]) -> None:
    graph = model.graph
    for value in list(graph.inputs):
        name = str(value.name)
        if name not in shapes:
            continue
        value.shape = ir.Shape(shapes[name])
        if name in fixed:
            _compile_in(graph, value, fixed[name])


def _compile_in(graph: ir.Graph, value: ir.Value, number: Any) -> None:
    assert value.dtype is not None, "inputs have types"
    if not value.uses():
        return
    tensor = ir.tensor(np.array(number, value.dtype.numpy()), name=f"{value.name}.fixed")
    stored = ir.Value(name=tensor.name, type=value.type, shape=value.shape, const_value=tensor)
    graph.register_initializer(stored)
    value.replace_all_uses_with(stored)


def _settle(model: ir.Model) -> None:
    """Infer and fold until nothing changes any more."""
    before = None
    for _ in range(MOST_ROUNDS):
        _forget_open_sizes(model)
        InferShapes()(model)
        FoldConstants()(model)
        branches = _choose_branches(model)
        now = (len(model.graph), _open(model))
        if now == before and not branches:
            break
        before = now
    CleanUp()(model)
    _spell_batch_norms(model)
    RemoveUnusedNodesPass()(model)


def _spell_batch_norms(model: ir.Model) -> None:
    """`BatchNormalization` with stored statistics → a product and a sum, which others may take over."""
    for node in list(model.graph):
        if node.op_type != "BatchNormalization" or node.domain or len(node.outputs) != 1:
            continue
        value = node.inputs[0]
        arrays = [constant(one) for one in node.inputs[1:5]]
        if value is None or value.shape is None or len(value.shape) < 2 or any(one is None for one in arrays):
            continue
        scale, bias, mean, variance = (np.asarray(one, np.float64) for one in arrays)
        factor = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        extent = (-1, *(1,) * (len(value.shape) - 2))
        factors, sums = (
            _stored(model.graph, node, name, array.reshape(extent))
            for name, array in (("factor", factor), ("sum", bias - factor * mean))
        )
        product = insert(node, "Mul", [value, factors], name=f"{node.name}.product")
        described(value, product.outputs[0], sizes(value))
        supersede(node, insert(node, "Add", [product.outputs[0], sums]))


def _stored(graph: ir.Graph, node: ir.Node, name: str, array: NDArray[np.float64]) -> ir.Value:
    tensor = ir.tensor(array.astype(np.float32), name=f"{node.name}.{name}")
    value = ir.Value(
        name=tensor.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def _forget_open_sizes(model: ir.Model) -> None:
    """Leave shapes that are not yet known to the next inference; constants say theirs."""
    for node in model.graph:
        for value in node.outputs:
            tensor = ir.convenience.get_const_tensor(value) if node.op_type == "Constant" else None
            if tensor is not None:
                value.shape = ir.Shape(tensor.shape.numpy())
            elif value.shape is not None and not value.shape.is_static():
                value.shape = None


def _open(model: ir.Model) -> int:
    """How many values have sizes that are not known."""
    shapes = (value.shape for node in model.graph for value in node.outputs)
    return sum(one is None or not one.is_static() for one in shapes)


def _choose_branches(model: ir.Model) -> int:
    """Put the nodes of the branch that is taken in the place of each `If` whose condition is known."""
    chosen = 0
    for node in list(model.graph):
        if node.op_type != "If" or node.domain:
            continue
        condition = constant(node.inputs[0])
        if condition is not None:
            _inline(node, bool(condition.reshape(-1)[0]))
            chosen += 1
    if chosen:
        NameFixPass()(model)
    return chosen


def _inline(node: ir.Node, condition: bool) -> None:
    graph = node.graph
    assert isinstance(graph, ir.Graph), "only nodes of a graph are inlined"
    branch = node.attributes["then_branch" if condition else "else_branch"].as_graph()
    results = list(branch.outputs)
    branch.outputs.clear()
    inner = list(branch)
    branch.remove(inner)
    for value in list(branch.initializers.values()):
        del branch.initializers[str(value.name)]
        value.name = f"{node.name}.{value.name}"
        graph.register_initializer(value)
    for one in inner:
        one.name = f"{node.name}.{one.name}"
        for value in one.outputs:
            value.name = f"{node.name}.{value.name}"
            value.shape = None
    graph.insert_before(node, inner)
    for old, new in zip(node.outputs, results, strict=True):
        take_over(old, new)
    graph.remove(node, safe=True)
