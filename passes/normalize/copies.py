"""Which nodes give what they get."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from intaglio.passes.normalize.permutations import permutation
from intaglio.passes.rewriting import constant, input_at, integers, sizes


def copies_input(node: ir.Node, source: ir.Value) -> bool:
    """Whether the first output of a standard `node` is `source`, its first input."""
    copies = COPIES.get(node.op_type)
    return copies is not None and copies(node, source)


def _keeps_type(node: ir.Node, source: ir.Value) -> bool:
    return source.dtype is not None and source.dtype == node.attributes["to"].as_int()


def _drops_nothing(node: ir.Node, _: ir.Value) -> bool:
    if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
        return False
    training = input_at(node, 2)
    flag = constant(training)
    return training is None or (flag is not None and not flag.any())


def _keeps_shape(node: ir.Node, source: ir.Value) -> bool:
    before, after = sizes(source), sizes(node.outputs[0])
    if before is None or after is None or len(before) != len(after):
        return False
    differing = sum(one is None or one != other for one, other in zip(before, after, strict=True))
    may_differ = node.op_type == "Reshape" and 0 not in after and _unknown(before, after)
    return differing == 0 or (differing == 1 and may_differ)


def _unknown(before: list[int | str | None], after: list[int | str | None]) -> bool:
    """Whether the sizes that differ are not two different numbers."""
    pairs = [pair for pair in zip(before, after, strict=True) if pair[0] is None or pair[0] != pair[1]]
    return not any(isinstance(one, int) and isinstance(other, int) for one, other in pairs)


def _moves_nothing(node: ir.Node, _: ir.Value) -> bool:
    axes = permutation(node)
    return axes is not None and axes == sorted(axes)


def _takes_all(node: ir.Node, source: ir.Value) -> bool:
    starts, ends = integers(node.inputs[1]), integers(node.inputs[2])
    steps = integers(input_at(node, 4)) or [1]
    if set(steps) == {1} and starts is not None and _keeps_shape(node, source):
        return True
    everything = starts is not None and ends is not None and not any(starts) and set(steps) == {1}
    return everything and min(ends or [0]) >= 2**31 - 1


COPIES: dict[str, Callable[[ir.Node, ir.Value], bool]] = {
    "Identity": lambda _, __: True,
    "Cast": _keeps_type,
    "Dropout": _drops_nothing,
    "Reshape": _keeps_shape,
    "Expand": _keeps_shape,
    "Transpose": _moves_nothing,
    "Slice": _takes_all,
    "Concat": lambda node, _: len(node.inputs) == 1,
}
