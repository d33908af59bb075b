"""Nodes that change nothing, out of the way of the passes that look for patterns."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from intaglio.passes.normalize.copies import copies_input
from intaglio.passes.normalize.permutations import permutation
from intaglio.passes.result import Applied, PassResult
from intaglio.passes.rewriting import (
    bypass,
    described,
    input_at,
    insert,
    integers,
    made_by,
    remove_unused,
    sizes,
    supersede,
)


@dataclass(frozen=True)
class CleanUp:
    """What copies its input → that input:

        Identity(x), Dropout(x) in inference, Cast(x) to the type of x,
        Reshape(x) or Expand(x) to the shape of x, Transpose(x) that moves nothing, Slice(x) of everything
        Transpose(Transpose(x)) → Transpose(x);  Reshape(Reshape(x)) → Reshape(x)
        CastLike(x, y) → Cast(x; to=type of y), where that is known
        Concat(x, nothing) → x, nothing being of size 0 along the axis
        Add(c, x), Mul(c, x) with a constant c → Add(x, c), Mul(x, c)

    Exceptions:
    1. A graph output that would be a graph input, a weight or another output stays a node of its own.
    2. A `Reshape` whose target copies sizes (`0`) reads those of its own input: the one before it stays.
    3. A mask that a `Dropout` gives is used: it stays.
    4. Sizes without names equal nothing, not even themselves; of a `Reshape` one of them may be unknown.
    """

    name: str = "clean_up"

    def __call__(self, model: ir.Model) -> PassResult:
        """Once through the graph, in order, so that copies of copies go too."""
        _forget_removed_readers(model.graph)
        applied = []
        for node in list(model.graph):
            detail = self._cleaned(node)
            if detail is not None:
                applied.append(Applied(self.name, node.name or "", detail))
        remove_unused(model)
        return PassResult(model, tuple(applied))

    def _cleaned(self, node: ir.Node) -> str | None:
        if node.domain or not node.inputs:
            return None
        if node.op_type in ("Transpose", "Reshape"):
            _join(node)
        if node.op_type == "CastLike":
            return _plain_cast(node)
        if node.op_type in ("Add", "Mul"):
            _constant_last(node)
        if node.op_type == "Concat":
            _leave_out_nothing(node)
        source = node.inputs[0]
        if source is None or not copies_input(node, source):
            return None
        if node.outputs[0].shape is not None and source.shape is None:
            source.shape = node.outputs[0].shape
        return f"{node.op_type} changed nothing" if bypass(node.outputs[0], source) else None


def _forget_removed_readers(graph: ir.Graph) -> None:
    """Nodes taken out of a graph may still count as readers; the only reader must not be one of two."""
    values = [*graph.inputs, *graph.initializers.values(), *(one for node in graph for one in node.outputs)]
    for value in values:
        for use in [one for one in value.uses() if one.node.graph is None]:
            use.node.replace_input_with(use.idx, None)


def _plain_cast(node: ir.Node) -> str | None:
    like = node.inputs[1]
    if like is None or like.dtype is None:
        return None
    if node.inputs[0] is not None and node.inputs[0].dtype == like.dtype:
        return "Cast to its own type" if bypass(node.outputs[0], node.inputs[0]) else None
    cast = insert(node, "Cast", [node.inputs[0]], {"to": int(like.dtype)})
    described(like, cast.outputs[0], sizes(node.outputs[0]))
    supersede(node, cast)
    return "CastLike → Cast"


def _leave_out_nothing(node: ir.Node) -> None:
    axis = node.attributes["axis"].as_int()
    kept = [one for one in node.inputs if (sizes(one) or {axis: None})[axis] != 0]
    if 0 < len(kept) < len(node.inputs):
        node.resize_inputs(len(kept))
        for place, value in enumerate(kept):
            node.replace_input_with(place, value)


def _constant_last(node: ir.Node) -> None:
    first, second = node.inputs
    assert first is not None, "a required input of a standard op"
    if second is not None and _is_fixed(first) and not _is_fixed(second):
        node.replace_input_with(0, second)
        node.replace_input_with(1, first)


def _is_fixed(value: ir.Value) -> bool:
    if value.is_graph_input():
        return False
    return value.const_value is not None or made_by(value, "Constant") is not None


def _join(node: ir.Node) -> None:
    """Let a `Transpose` or `Reshape` read what the one before it reads."""
    before = made_by(node.inputs[0], node.op_type)
    if before is None or before.inputs[0] is None:
        return
    if node.op_type == "Reshape":
        target = integers(input_at(node, 1))
        copies_sizes = (target is None or 0 in target) and not node.attributes.get_int("allowzero", 0)
        if not copies_sizes:  # exception 2
            node.replace_input_with(0, before.inputs[0])
        return
    first, second = permutation(before), permutation(node)
    if first is not None and second is not None:
        node.attributes["perm"] = ir.AttrInt64s("perm", [first[one] for one in second])
        node.replace_input_with(0, before.inputs[0])
