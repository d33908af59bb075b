"""Nodes that only say otherwise where a tensor lies: nothing is computed or copied."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from intaglio.backends.tvm.graphs.builder import TableBuilder, is_known, shape_of
from intaglio.backends.tvm.graphs.claims import Claim, Views
from intaglio.backends.tvm.graphs.constants import array_of, is_stored
from intaglio.backends.tvm.graphs.nodes import constant, input_at
from intaglio.backends.tvm.graphs.views import View

RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")


def claim_view(node: ir.Node, views: Views) -> Claim | None:
    """Reshapes, transpositions, slices and single picks, where strides can say them."""
    source = node.inputs[0] if node.inputs else None
    if node.domain or source not in views or source is None or not is_known(node.outputs[0]):
        return None
    make = _VIEWS.get(node.op_type)
    if make is None or make(node, views[source]) is None:
        return None

    def emit(table: TableBuilder) -> None:
        found = make(node, table.views[source])
        assert found is not None, "the claim was based on a view like this"
        table.put(node.outputs[0], found)

    return Claim("view", (node,), emit, (source,))


def _reshaped(node: ir.Node, view: View) -> View | None:
    return view.reshaped(shape_of(node.outputs[0]))


def _same(_: ir.Node, view: View) -> View | None:
    return view


def _transposed(node: ir.Node, view: View) -> View | None:
    return view.transposed(node.attributes.get_ints("perm", tuple(reversed(range(len(view.shape))))))


def _cast(node: ir.Node, view: View) -> View | None:
    kept = node.outputs[0].dtype is not None and node.outputs[0].dtype.numpy().name == view.dtype
    return view if kept else None


def _picked(node: ir.Node, view: View) -> View | None:
    """`Gather` of one index."""
    index = node.inputs[1]
    if index is None or not is_stored(index) or array_of(index).size != 1:
        return None
    axis = node.attributes.get_int("axis", 0) % len(view.shape)
    number = int(array_of(index).reshape(-1)[0])
    number += view.shape[axis] if number < 0 else 0
    if not 0 <= number < view.shape[axis]:
        return None
    return view.sliced(axis, number, 1, 1).reshaped(shape_of(node.outputs[0]))


def _sliced(node: ir.Node, view: View) -> View | None:
    rank = len(view.shape)
    given = [constant(input_at(node, index)) for index in (1, 2, 3, 4)]
    starts, ends = given[0], given[1]
    if starts is None or ends is None:
        return None
    axes = given[2] if input_at(node, 3) is not None else range(len(starts))
    steps = given[3] if input_at(node, 4) is not None else [1] * len(starts)
    if axes is None or steps is None:
        return None
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        place = int(axis) % rank
        picked = range(view.shape[place])[slice(int(start), int(end), int(step))]
        if not len(picked):
            return None
        view = view.sliced(place, picked[0], int(step), len(picked))
    return view


_VIEWS: Mapping[str, Callable[[ir.Node, View], View | None]] = {
    **dict.fromkeys(RESHAPES, _reshaped),
    "Identity": _same,
    "Transpose": _transposed,
    "Cast": _cast,
    "Gather": _picked,
    "Slice": _sliced,
}
