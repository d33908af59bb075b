"""Arithmetic on small weights, done when they are read: `1 + w` of norms, casts of biases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.compiler.ir.builder import GraphBuilder
from intaglio.passes.result import Applied, PassResult
from intaglio.passes.rewriting import constant, remove_unused, rename_initializer

Array = NDArray[np.generic]
ARITHMETIC: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
}


@dataclass(frozen=True)
class FoldVectors:
    """`f(v)` → a lazy initialiser: `v` a float initialiser of one axis, `f` a cast, `v ∘ c` or `c ∘ v`.

    `v` is read when the new one is, and nothing is retained. The new one takes the name of `v` where nobody
    else reads that.

    Exceptions:
    1. The other operand is not a constant of one element: nothing is done.
    2. `v` has more than one axis: it stays as it is stored.
    3. The result is a graph output: it stays computed.
    """

    name: str = "fold_vectors"

    def __call__(self, model: ir.Model) -> PassResult:
        """Fold in the order of the graph, so that chains fold into one."""
        applied = []
        for node in list(model.graph):
            found = None if node.domain or node.outputs[0].is_graph_output() else _computation(node)
            if found is None:
                continue
            vector, dtype, function = found
            folded = _replace(model.graph, node, vector, dtype, function)
            applied.append(Applied(self.name, folded.name or "", node.op_type))
        remove_unused(model)
        return PassResult(model, tuple(applied))


Computation = tuple[ir.Value, ir.DataType, Callable[[Array], Array]]


def _computation(node: ir.Node) -> Computation | None:
    """The vector that `node` computes with, the type of its result, and how to get it."""
    if node.op_type == "Cast":
        vector, to = node.inputs[0], ir.DataType(node.attributes["to"].as_int())
        if vector is None or not _is_vector(vector) or not to.is_floating_point():
            return None
        return vector, to, lambda array: array.astype(to.numpy())
    function = ARITHMETIC.get(node.op_type)
    for place in (0, 1) if function is not None else ():
        vector, other = node.inputs[place], constant(node.inputs[1 - place], limit=1)
        if function is not None and vector is not None and other is not None and _is_vector(vector):
            assert vector.dtype is not None, "an initialiser has a type"
            return vector, vector.dtype, _with_scalar(function, other, place)
    return None


def _with_scalar(
    function: Callable[[Array, Array], Array], other: Array, place: int
) -> Callable[[Array], Array]:
    one = other.reshape(())
    return (lambda array: function(array, one)) if place == 0 else (lambda array: function(one, array))


def _is_vector(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or value.is_graph_input() or not value.is_initializer():
        return False
    return len(tensor.shape) == 1 and tensor.dtype.is_floating_point()


def _replace(
    graph: ir.Graph, node: ir.Node, vector: ir.Value, dtype: ir.DataType, function: Callable[[Array], Array]
) -> ir.Value:
    stored, name = vector.const_value, vector.name or ""
    assert stored is not None, "an initialiser has a value"
    tensor = ir.LazyTensor(
        lambda: ir.Tensor(function(stored.numpy()), dtype), dtype, ir.Shape(stored.shape.numpy())
    )
    folded = GraphBuilder.extend(graph, before=node).initializer(f"{name}.{node.op_type.lower()}", tensor)
    node.outputs[0].replace_all_uses_with(folded)
    graph.remove(node, safe=True)
    if not vector.uses() and not vector.is_graph_output():
        del graph.initializers[name]
        rename_initializer(graph, folded, name)
    return folded
