"""A part of a graph as a model of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

IR_VERSION = 13


def extract(
    graph: ir.Graph,
    inputs: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    functions: Mapping[ir.OperatorIdentifier, ir.Function] | None = None,
) -> ir.Model | None:
    """Copies of all nodes that `outputs` need beyond `inputs`; `None` where they need another graph input.

    Initialisers are shared with `graph`, not copied; inputs that nothing needs are left out.
    """
    copier = _Copier(frozenset(inputs))
    results = [copier.copy_of(one) for one in outputs]
    if copier.strays:
        return None
    given = [copier.values[one] for one in inputs if one in copier.values]
    part = ir.Graph(
        given,
        results,
        nodes=copier.nodes,
        initializers=copier.initializers,
        opset_imports=dict(graph.opset_imports),
        name=graph.name,
    )
    called = {node.op_identifier() for node in copier.nodes}
    return ir.Model(part, ir_version=IR_VERSION, functions=_needed(called, functions or {}))


def _needed(
    called: set[ir.OperatorIdentifier], functions: Mapping[ir.OperatorIdentifier, ir.Function]
) -> list[ir.Function]:
    """The functions called, and those that they call."""
    found: dict[ir.OperatorIdentifier, ir.Function] = {}
    pending = [one for one in called if one in functions]
    while pending:
        identifier = pending.pop()
        if identifier in found:
            continue
        found[identifier] = functions[identifier]
        inner = {node.op_identifier() for node in functions[identifier]}
        pending += [one for one in inner if one in functions]
    return list(found.values())


class _Copier:
    """Copies nodes, each after what it reads; iterative, since graphs are deeper than Python's stack."""

    def __init__(self, inputs: frozenset[ir.Value]) -> None:
        self.inputs = inputs
        self.values: dict[ir.Value, ir.Value] = {}
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self.strays: list[ir.Value] = []

    def copy_of(self, value: ir.Value) -> ir.Value:
        pending = [value]
        while pending:
            needed = self._missing(pending[-1])
            if needed:
                pending += needed
            else:
                self._copy(pending.pop())
        return self.values[value]

    def _missing(self, value: ir.Value) -> list[ir.Value]:
        node = None if value in self.inputs or value in self.values else value.producer()
        if node is None:
            return []
        return [one for one in node.inputs if one is not None and one not in self.values]

    def _copy(self, value: ir.Value) -> None:
        if value in self.values:
            return
        node = None if value in self.inputs else value.producer()
        if node is not None:
            self._copy_node(node)
            return
        copy = self.values[value] = _like(value)
        if value in self.inputs:
            return
        if value.const_value is None:
            self.strays.append(value)
            return
        copy.const_value = value.const_value
        self.initializers.append(copy)

    def _copy_node(self, node: ir.Node) -> None:
        outputs = [_like(one) for one in node.outputs]
        self.values.update(zip(node.outputs, outputs, strict=True))
        self.nodes.append(
            ir.Node(
                node.domain,
                node.op_type,
                [None if one is None else self.values[one] for one in node.inputs],
                list(node.attributes.values()),
                overload=node.overload,
                outputs=outputs,
                name=node.name,
                metadata_props=dict(node.metadata_props),
            )
        )


def _like(value: ir.Value) -> ir.Value:
    return ir.Value(name=value.name, type=value.type, shape=value.shape)
