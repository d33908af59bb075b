"""Linear layers, however they were spelled, as `MatMul(x, Transpose(W))` with `W` stored `[out, in]`."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from intaglio.compiler.ir.builder import GraphBuilder
from intaglio.passes.normalize.layer_names import layer_name
from intaglio.passes.normalize.permutations import permutation
from intaglio.passes.result import Applied, Declined, PassResult
from intaglio.passes.rewriting import (
    SITE,
    described,
    input_at,
    insert,
    is_op,
    made_by,
    remove_unused,
    rename_initializer,
    sizes,
    supersede,
)
from intaglio.passes.tensors import turned

FEWEST = 2  # rows or columns: a product with less is a sum or a scaling, and no linear layer
FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True)
class RecognizeLinears:
    """`Gemm(x, W, b)`, `MatMul(x, W)` → `MatMul(x, Transpose(W)) [+ b]`, `W` a float weight `[out, in]`.

    A weight stored `[in, out]` is turned lazily: nothing is read, and one that several layers share stays
    one. Every layer gets a name of its own as metadata `intaglio.site`.

    Exceptions:
    1. The second factor is computed, quantised, a graph input, or no matrix of floats: no linear layer here.
    2. It has fewer than two rows or columns: no linear layer.
    3. `Gemm` turns its first input, or scales the product or the bias: declined.
    """

    name: str = "recognize_linears"

    def __call__(self, model: ir.Model) -> PassResult:
        """Rewrite every layer found."""
        accounts: list[Applied | Declined] = []
        store = _Store(model.graph)
        for node in list(model.graph):
            weight = _read(node)
            if weight is None:
                continue
            if problem := _gemm_problem(node):
                accounts.append(Declined(self.name, node.name or "", problem))
            else:
                accounts += self._rewritten(node, weight, store)
        remove_unused(model)
        store.give_names_back()
        return PassResult.of(model, accounts)

    def _rewritten(self, node: ir.Node, weight: _Stored, store: _Store) -> list[Applied]:
        site = layer_name(node, weight.value, store.sites)
        store.sites.add(site)
        if weight.is_canonical(node):
            node.metadata_props[SITE] = site
            return []
        before = f"{node.op_type} with {sizes(node.inputs[1])}"
        product = _product(node, store.transposed(node, weight))
        product.metadata_props[SITE] = site
        return [Applied(self.name, site, f"{before} → MatMul(x, Transpose(W))")]


@dataclass(frozen=True)
class _Stored:
    """The initialiser behind the second factor of a product."""

    value: ir.Value
    out_in: bool
    cast: bool  # to float32 on the way

    def is_canonical(self, node: ir.Node) -> bool:
        """Whether `node` is `MatMul(x, Transpose([Cast] W))` already, with a transpose of its own."""
        transpose = made_by(node.inputs[1], "Transpose")
        if not is_op(node, "MatMul") or not self.out_in or transpose is None:
            return False
        return made_by(transpose.inputs[0], "Transpose") is None and len(transpose.outputs[0].uses()) == 1


@dataclass
class _Store:
    """Weights of the graph, the turned ones added on demand."""

    graph: ir.Graph
    sites: set[str] = field(default_factory=set)
    turned: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def transposed(self, before: ir.Node, weight: _Stored) -> ir.Value:
        """`[in, out]`, made ahead of `before` from a weight `[out, in]`."""
        value = weight.value if weight.out_in else self._turned(weight.value)
        shape = sizes(value) or []
        if weight.cast:
            value = insert(before, "Cast", [value], {"to": int(FLOAT)}).outputs[0]
            value.type, value.shape = ir.TensorType(FLOAT), ir.Shape(shape)
        node = insert(before, "Transpose", [value], {"perm": [1, 0]})
        return described(value, node.outputs[0], shape[::-1])

    def _turned(self, value: ir.Value) -> ir.Value:
        if value not in self.turned:
            assert value.const_value is not None, "an initialiser has a value"
            builder = GraphBuilder.extend(self.graph)
            self.turned[value] = builder.initializer(f"{value.name}.turned", turned(value.const_value))
        return self.turned[value]

    def give_names_back(self) -> None:
        """Name turned weights like the original ones, where these have gone."""
        for original, value in self.turned.items():
            if original.name not in self.graph.initializers:
                rename_initializer(self.graph, value, original.name or "")


def _read(node: ir.Node) -> _Stored | None:
    """The weight of `node`, if it is a linear layer."""
    if not is_op(node, "MatMul") and not is_op(node, "Gemm"):
        return None
    value, out_in, cast = input_at(node, 1), bool(node.attributes.get_int("transB", 0)), False
    while (step := made_by(value, "Transpose", "Cast")) is not None:
        if step.op_type == "Transpose" and permutation(step) == [1, 0]:
            out_in = not out_in
        elif step.op_type == "Cast" and step.attributes["to"].as_int() == FLOAT and not cast:
            cast = True
        else:
            return None
        value = step.inputs[0]
    return _Stored(value, out_in, cast) if value is not None and _is_matrix(value) else None


def _is_matrix(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or not value.is_initializer() or value.is_graph_input():
        return False
    is_float = tensor.dtype.is_floating_point() and tensor.dtype.bitwidth >= 16
    return is_float and len(tensor.shape) == 2 and min(tensor.shape.numpy()) >= FEWEST


def _gemm_problem(node: ir.Node) -> str | None:
    if node.op_type != "Gemm":
        return None
    if node.attributes.get_int("transA", 0):
        return "Gemm turns its first input (transA=1)"
    factors = {"alpha": node.attributes.get_float("alpha", 1.0)}
    if input_at(node, 2) is not None:
        factors["beta"] = node.attributes.get_float("beta", 1.0)
    scaled = [f"{name}={one}" for name, one in factors.items() if one != 1.0]
    return f"Gemm scales its parts: {', '.join(scaled)}" if scaled else None


def _product(node: ir.Node, transposed: ir.Value) -> ir.Node:
    """Put the canonical layer in the place of `node`; its `MatMul`."""
    product = insert(node, "MatMul", [node.inputs[0], transposed])
    bias = input_at(node, 2)
    if bias is None:
        supersede(node, product)
        return product
    described(node.outputs[0], product.outputs[0], sizes(node.outputs[0]))
    supersede(node, insert(node, "Add", [product.outputs[0], bias]))
    return product
