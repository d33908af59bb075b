"""Turning a set of nodes into a model-local function and a call of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from intaglio.compiler.ir.functions import DOMAIN, DOMAIN_VERSION, OPSET
from intaglio.compiler.ir.hash import structural_hash
from intaglio.compiler.ir.index_arithmetic import is_structure
from intaglio.passes.rewriting import SITE, take_over

_NUMBER = re.compile(r"^layers\.\d+\.|\.\d+(?=\.|$)")


@dataclass(frozen=True)
class Region:
    """Nodes to be outlined, closed under everything between its inputs and `outputs`."""

    kind: str  # the function's name
    site: str
    nodes: frozenset[ir.Node]
    outputs: tuple[ir.Value, ...]


def outline(model: ir.Model, region: Region) -> ir.Node:
    """`region` → a call of a function of domain `intaglio` that holds copies of its nodes.

    The function's overload is the structural hash of its body, so equal bodies share one function. Its inputs
    are, in the order in which the outputs need them, everything the nodes read: weights are inputs too, but
    int64 initialisers of up to 64 elements become `Constant` nodes of the body. The originals stay in the
    graph for whoever else reads them; unused ones are left to dead-code removal. The graph may need sorting.
    """
    body = _Body(region.nodes)
    for value in region.outputs:
        body.outputs.append(body.copy_of(value))
    function = body.function(region.kind)
    model.functions.setdefault(function.identifier(), function)
    model.opset_imports.setdefault(DOMAIN, DOMAIN_VERSION)
    call = ir.Node(
        DOMAIN,
        region.kind,
        list(body.inputs),
        overload=function.overload,
        num_outputs=len(region.outputs),
        name=f"{region.site}.{region.kind}",
        metadata_props={SITE: region.site},
    )
    last = region.outputs[-1].producer()
    assert last is not None, "a region makes its outputs"
    model.graph.insert_after(last, call)
    for old, new in zip(region.outputs, call.outputs, strict=True):
        take_over(old, new)
    return call


@dataclass
class _Body:
    """Copies nodes, each after what it reads."""

    nodes: frozenset[ir.Node]
    inputs: dict[ir.Value, ir.Value] = field(default_factory=dict)  # outer value → the body's
    outputs: list[ir.Value] = field(default_factory=list)
    copies: dict[ir.Value, ir.Value] = field(default_factory=dict)
    ordered: list[ir.Node] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def copy_of(self, value: ir.Value) -> ir.Value:
        if value in self.copies:
            return self.copies[value]
        node = value.producer()
        if node is not None and node in self.nodes:
            self._copy_node(node)
        elif (constant := _structure(value)) is not None:
            self._add_constant(value, constant)
        else:
            self.copies[value] = self.inputs[value] = self._like(value, _input_name(value))
        return self.copies[value]

    def function(self, name: str) -> ir.Function:
        imports = {"": OPSET}
        imports.update({node.domain: DOMAIN_VERSION for node in self.ordered if node.domain})
        graph = ir.Graph(
            list(self.inputs.values()), self.outputs, nodes=self.ordered, opset_imports=imports, name=name
        )
        return ir.Function(DOMAIN, name, structural_hash(graph), graph=graph, attributes=[])

    def _copy_node(self, node: ir.Node) -> None:
        inputs = [None if one is None else self.copy_of(one) for one in node.inputs]
        outputs = [self._like(one, _short(one.name or node.op_type)) for one in node.outputs]
        metadata = {
            key: one for key, one in node.metadata_props.items() if key != SITE
        }  # layers differ in it
        copy = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            list(node.attributes.values()),
            overload=node.overload,
            outputs=outputs,
            name=outputs[0].name,
            metadata_props=metadata,
        )
        self.copies.update(zip(node.outputs, outputs, strict=True))
        self.ordered.append(copy)

    def _add_constant(self, value: ir.Value, tensor: ir.TensorProtocol) -> None:
        output = self._like(value, "constant")
        attributes = [ir.AttrTensor("value", ir.Tensor(tensor.numpy()))]
        self.ordered.append(ir.Node("", "Constant", [], attributes, outputs=[output], name=output.name))
        self.copies[value] = output

    def _like(self, value: ir.Value, name: str) -> ir.Value:
        unique, count = name, 1
        while unique in self.names:
            count += 1
            unique = f"{name}.{count}"
        self.names.add(unique)
        return ir.Value(name=unique, type=value.type, shape=value.shape)


def body_nodes(function: ir.Function) -> Iterator[ir.Node]:
    """The nodes of a body without its constants."""
    return (node for node in function if node.op_type != "Constant" or node.domain)


def _structure(value: ir.Value) -> ir.TensorProtocol | None:
    tensor = value.const_value if value.is_initializer() else None
    return tensor if is_structure(tensor) else None


def _input_name(value: ir.Value) -> str:
    """Activations are called `x`: their makers differ from layer to layer, the function may not."""
    is_activation = value.producer() is not None and value.dtype != ir.DataType.INT64
    return "x" if is_activation else _short(value.name or "input")


def _short(name: str) -> str:
    """`layers.3.mlp.down_proj` → `mlp.down_proj`, `key_cache.3` → `key_cache`."""
    return _NUMBER.sub("", name)
