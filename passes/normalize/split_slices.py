"""Slices that cut one value into pieces, as one `Split`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import onnx_ir as ir

from intaglio.compiler.ir.builder import GraphBuilder
from intaglio.passes.result import Applied, PassResult
from intaglio.passes.rewriting import input_at, insert, integers, is_op, remove_unused, sizes, supersede

Span = tuple[int, int]


@dataclass(frozen=True)
class SplitSlices:
    """`Slice(x, 0:a), Slice(x, a:b), …, Slice(x, z:)` along the last axis → `Split(x, [a, b - a, …])`.

    Exceptions:
    1. The slices leave something out, overlap, take steps, or cut other axes too: they stay.
    2. The size of the last axis is not known: they stay.
    3. Equal slices become one output of the `Split`.
    """

    name: str = "split_slices"

    def __call__(self, model: ir.Model) -> PassResult:
        """Join the slices of every value."""
        applied = []
        for node in list(model.graph):
            value = node.inputs[0] if node.graph is not None and _span(node) is not None else None
            cuts = {} if value is None else _cuts(value)
            if value is not None and (split := self._split(model.graph, value, cuts)) is not None:
                applied.append(Applied(self.name, split.name or "", f"{len(cuts)} slices of {value.name}"))
        remove_unused(model)
        return PassResult(model, tuple(applied))

    def _split(self, graph: ir.Graph, value: ir.Value, cuts: dict[ir.Node, Span]) -> ir.Node | None:
        spans = sorted(set(cuts.values()))
        follows = all(first[1] == second[0] for first, second in pairwise(spans))
        shape = sizes(value)
        if len(spans) < 2 or spans[0][0] != 0 or not follows or shape is None or spans[-1][1] != shape[-1]:
            return None
        first = next(node for node in graph if node in cuts)
        pieces = GraphBuilder.extend(graph, before=first).integers([end - start for start, end in spans])
        split = insert(first, "Split", [value, pieces], {"axis": -1}, outputs=len(spans))
        split.name = f"{value.name}.split"
        for node, span in cuts.items():
            part = split.outputs[spans.index(span)]
            _hand_over(node, part)
            graph.remove(node, safe=True)
        return split


def _hand_over(node: ir.Node, part: ir.Value) -> None:
    old = node.outputs[0]
    if part.uses() or part.is_graph_output():  # exception 3
        copy = insert(node, "Identity", [part])
        supersede(node, copy)
        return
    name, old.name = old.name, f"{old.name}.superseded"
    part.type, part.shape = old.type, old.shape
    old.replace_all_uses_with(part, replace_graph_outputs=True)
    part.name = name


def _cuts(value: ir.Value) -> dict[ir.Node, Span]:
    return {node: span for node in value.consumers() if (span := _span(node)) is not None}


def _span(node: ir.Node) -> Span | None:
    """The part of the last axis that `node` takes, if it is a slice along that alone."""
    shape = sizes(node.inputs[0]) if is_op(node, "Slice") else None
    if not shape or not isinstance(shape[-1], int):
        return None
    starts, ends, axes = (integers(input_at(node, index)) for index in (1, 2, 3))
    steps = integers(input_at(node, 4)) or [1]
    if starts is None or ends is None or axes is None or len(axes) != 1 or steps != [1]:
        return None
    if axes[0] % len(shape) != len(shape) - 1:
        return None
    start, end = (min(one if one >= 0 else one + shape[-1], shape[-1]) for one in (starts[0], ends[0]))
    return (start, end) if 0 <= start < end else None
