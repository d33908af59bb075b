"""Splits into sequences of tensors whose parts are all taken by number, as `Split`."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from intaglio.compiler.ir.builder import GraphBuilder
from intaglio.passes.result import Applied, PassResult
from intaglio.passes.rewriting import (
    constant,
    insert,
    integers,
    is_op,
    remove_unused,
    scalar,
    sizes,
    take_over,
)


@dataclass(frozen=True)
class SplitSequences:
    """`SequenceAt(SplitToSequence(x, sizes), i)` → output `i` of `Split(x, sizes)`.

    Exceptions:
    1. The sizes, the size of the axis or an index is not known: it stays.
    2. Somebody reads the sequence itself: it stays.
    3. There are no sizes, so every part has size 1 (and may lose its axis): it stays.
    """

    name: str = "split_sequences"

    def __call__(self, model: ir.Model) -> PassResult:
        """Rewrite every split of the main graph."""
        applied = []
        for node in list(model.graph):
            parts = _parts(node) if is_op(node, "SplitToSequence") else None
            if parts is not None and (indices := _indices(node, len(parts))) is not None:
                _split(model.graph, node, parts, indices)
                applied.append(Applied(self.name, node.name or "", f"parts of {parts}"))
        remove_unused(model)
        return PassResult(model, tuple(applied))


def _parts(node: ir.Node) -> list[int] | None:
    """The sizes of the parts."""
    shape = sizes(node.inputs[0])
    size = shape[node.attributes.get_int("axis", 0)] if shape is not None else None
    given = integers(node.inputs[1]) if len(node.inputs) > 1 else None
    if given is None or not isinstance(size, int):
        return None
    array = constant(node.inputs[1])
    if array is not None and array.ndim == 1:
        return given if sum(given) == size else None
    if given[0] < 1:
        return None
    whole, rest = divmod(size, given[0])
    return [given[0]] * whole + [rest] * (rest > 0)


def _indices(node: ir.Node, count: int) -> dict[ir.Node, int] | None:
    """Who takes which part; `None` where anybody does something else."""
    found = {}
    for reader in node.outputs[0].consumers():
        index = scalar(reader.inputs[1]) if is_op(reader, "SequenceAt") else None
        if index is None or not -count <= index < count:
            return None
        found[reader] = int(index) % count
    return None if node.outputs[0].is_graph_output() else found


def _split(graph: ir.Graph, node: ir.Node, parts: list[int], indices: dict[ir.Node, int]) -> None:
    pieces = GraphBuilder.extend(graph, before=node).integers(parts)
    axis = {"axis": node.attributes.get_int("axis", 0)}
    split = insert(node, "Split", [node.inputs[0], pieces], axis, outputs=len(parts))
    split.name = f"{node.name}.split"
    named = set[int]()
    for reader, index in indices.items():
        old, part = reader.outputs[0], split.outputs[index]
        if index in named:
            part = insert(reader, "Identity", [part]).outputs[0]
        named.add(index)
        take_over(old, part)
