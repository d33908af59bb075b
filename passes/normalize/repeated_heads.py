"""Heads of keys and values that were repeated for the queries of their group, and the heads before that."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from intaglio.passes.rewriting import input_at, integers, made_by, rank
from intaglio.passes.rewriting import sizes as known_sizes

HEADS_AXIS, RANK = 1, 4
Sizes = list[int | str | None] | None


def unexpanded(value: ir.Value) -> ir.Value | str:
    """The key or value before its heads were repeated for the queries of a group; itself where they were not.

    Read are `Reshape(Expand | Tile(Unsqueeze(k, 2)))` and `Gather(k, [0, 0, 1, 1, …], axis=1)`.
    """
    if (gather := made_by(value, "Gather")) is not None:
        return _before_gather(gather, value)
    reshape = made_by(value, "Reshape")
    repeat = made_by(input_at(reshape, 0), "Expand", "Tile") if reshape is not None else None
    if repeat is None:
        return value
    unsqueeze = made_by(repeat.inputs[0], "Unsqueeze")
    if unsqueeze is None or unsqueeze.inputs[0] is None:
        return f"{repeat.op_type} {repeat.name} repeats something else than an unsqueezed head axis"
    if (axes := integers(unsqueeze.inputs[1])) != [HEADS_AXIS + 1]:
        return f"Unsqueeze {unsqueeze.name} adds axis {axes}; heads of a group are neighbours only with [2]"
    if not _repeats_only(repeat, HEADS_AXIS + 1):
        return f"{repeat.op_type} {repeat.name} repeats more than axis 2, or by a number that is not constant"
    if (
        rank(value) != RANK
        and len(integers(input_at(reshape, 1) if reshape is not None else None) or ()) != RANK
    ):
        return f"Reshape after {repeat.name} does not go to four axes"
    return unsqueeze.inputs[0]


def _before_gather(gather: ir.Node, value: ir.Value) -> ir.Value | str:
    indices = integers(gather.inputs[1])
    if gather.attributes.get_int("axis", 0) != HEADS_AXIS or gather.inputs[0] is None:
        return value
    heads = max(indices) + 1 if indices else 0
    if (
        not indices
        or len(indices) % heads
        or indices != np.repeat(range(heads), len(indices) // heads).tolist()
    ):
        return f"Gather {gather.name} picks heads {indices}; grouped attention needs each repeated in place"
    return gather.inputs[0]


def _repeats_only(repeat: ir.Node, axis: int) -> bool:
    if _differs_only_at(axis, known_sizes(repeat.inputs[0]), known_sizes(repeat.outputs[0])):
        return True
    sizes = integers(input_at(repeat, 1))
    if sizes is None or len(sizes) != RANK + 1:
        return False
    return all(size == 1 for index, size in enumerate(sizes) if index != axis) or _same_but(
        repeat, axis, sizes
    )


def _differs_only_at(axis: int, before: Sizes, after: Sizes) -> bool:
    if before is None or after is None or len(before) != RANK + 1 or len(after) != RANK + 1:
        return False
    pairs = list(zip(before, after, strict=True))
    same = all(one is not None and one == other for index, (one, other) in enumerate(pairs) if index != axis)
    return same and before[axis] == 1 and isinstance(after[axis], int)


def _same_but(repeat: ir.Node, axis: int, sizes: list[int]) -> bool:
    """Whether an `Expand` names the sizes that its input has already, except along `axis`."""
    source = repeat.inputs[0].shape if repeat.inputs[0] is not None else None
    if repeat.op_type != "Expand" or source is None:
        return False
    pairs = [(size, source[index]) for index, size in enumerate(sizes) if index != axis]
    return all(size == 1 or size == known for size, known in pairs)
