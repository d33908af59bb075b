"""The two parts of a value that a rotation mixes: halves of its last axis, or neighbours along it."""

from __future__ import annotations

import onnx_ir as ir

from intaglio.passes.rewriting import input_at, integers, is_op, made_by, scalar, sizes

ENDLESS = 2**31 - 1  # an end of a slice that no axis reaches


def halves(first: ir.Value | None, second: ir.Value | None) -> ir.Value | None:
    """The value that is split into these equal halves of its last axis."""
    split = made_by(first, "Split")
    if split is None or tuple(split.outputs) != (first, second) or split.inputs[0] is None:
        return None
    shape = sizes(split.inputs[0])
    last = shape is not None and split.attributes.get_int("axis", 0) in (-1, len(shape) - 1)
    parts = integers(split.inputs[1]) if len(split.inputs) > 1 else [1, 1]
    return split.inputs[0] if last and parts is not None and len(set(parts)) == 1 else None


def neighbours(even: ir.Value | None, odd: ir.Value | None) -> ir.Value | None:
    """The value whose elements of even and of odd number along the last axis these are."""
    sources = [_every_second(even, 0) or _picked(even, 0), _every_second(odd, 1) or _picked(odd, 1)]
    return sources[0] if sources[0] is sources[1] else None


def stacked_pairs(value: ir.Value) -> tuple[ir.Value | None, ir.Value | None] | None:
    """The values whose elements alternate along the last axis of `value`."""
    reshape = made_by(value, "Reshape")
    concat = made_by(reshape.inputs[0], "Concat") if reshape is not None else None
    if concat is None or len(concat.inputs) != 2:
        return None
    added = [made_by(one, "Unsqueeze") for one in concat.inputs]
    before = [sizes(one.inputs[0]) for one in added if one is not None]
    if len(before) != 2 or before[0] is None or not _joins_last_two(value, before[0]):
        return None
    places = [integers(one.inputs[1]) for one in added if one is not None]
    last = len(before[0])
    at_end = all(one in ([-1], [last]) for one in places) and concat.attributes["axis"].as_int() in (-1, last)
    return (added[0].inputs[0], added[1].inputs[0]) if at_end and added[0] and added[1] else None


def _joins_last_two(value: ir.Value, before: list[int | str | None]) -> bool:
    """Whether pairs of values of the sizes `before` become one axis, the others staying."""
    shape, half = sizes(value), before[-1]
    same_rank = shape is not None and len(shape) == len(before)
    return same_rank and isinstance(half, int) and shape is not None and shape[-1] == 2 * half


def _every_second(value: ir.Value | None, start: int) -> ir.Value | None:
    """`x` where `value` is `x[…, start::2]`."""
    cut = made_by(value, "Slice")
    shape = sizes(cut.inputs[0]) if cut is not None else None
    if cut is None or shape is None:
        return None
    starts, ends, axes, steps = (integers(input_at(cut, place)) for place in range(1, 5))
    last = shape[-1]
    whole = ends is not None and len(ends) == 1 and (ends[0] >= ENDLESS or ends[0] == last)
    along = axes is not None and axes in ([-1], [len(shape) - 1])
    return cut.inputs[0] if whole and along and starts == [start] and steps == [2] else None


def _picked(value: ir.Value | None, place: int) -> ir.Value | None:
    """`x` where `value` is one of each pair of the last axis of `x`, which is `Reshape` to pairs."""
    gather = made_by(value, "Gather", "Squeeze")
    if gather is None:
        return None
    index: float | None
    if is_op(gather, "Squeeze"):
        split = made_by(gather.inputs[0], "Split")
        index = split.outputs.index(gather.inputs[0]) if split is not None else None
        paired = split.inputs[0] if split is not None and len(split.outputs) == 2 else None
        axis = split.attributes.get_int("axis", 0) if split is not None else 0
    else:
        index, paired = scalar(gather.inputs[1]), gather.inputs[0]
        axis = gather.attributes.get_int("axis", 0)
    shape = sizes(paired)
    if index != place or shape is None or shape[-1] != 2 or axis not in (-1, len(shape) - 1):
        return None
    return _before_pairing(paired, shape)


def _before_pairing(paired: ir.Value | None, shape: list[int | str | None]) -> ir.Value | None:
    reshape = made_by(paired, "Reshape")
    before = sizes(reshape.inputs[0]) if reshape is not None else None
    half = shape[-2]
    if reshape is None or before is None or not isinstance(half, int) or len(before) != len(shape) - 1:
        return None
    return reshape.inputs[0] if before[-1] == 2 * half else None
