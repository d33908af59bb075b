"""Positions of tokens, however a graph computes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from intaglio.passes.normalize.evaluate import cut
from intaglio.passes.rewriting import made_by

PROBES = ((1, 5), (2, 7), (3, 1))  # batch, sequence; the last has single tokens
TOKENS = 1 << 16  # made-up ones: what depends on their values is no position


def offset_of(
    value: ir.Value, tokens: ir.Value, opset: int, counted: Sequence[ir.Value] = ()
) -> int | str | None:
    """`c` where `value` is `c + 0, 1, …` along its last axis for every sequence of `tokens`.

    `None` where it is one number for all tokens; a string says why it is something else. It is computed for
    a few batches of made-up tokens; the inputs `counted` are 0, 1, … themselves.
    """
    part = cut(value, [tokens, *counted], opset)
    if isinstance(part, str):
        return f"{value.name} is no position: {part}"
    random, starts = np.random.default_rng(0), list[int | None]()
    for shape in PROBES:
        numbers = np.broadcast_to(np.arange(shape[1]), shape)
        array = part.run({tokens: random.integers(0, TOKENS, shape), **dict.fromkeys(counted, numbers)})
        start = array if isinstance(array, str) else _start(array.astype(np.int64), shape)
        if isinstance(start, str):
            return f"{value.name} is no position: {start}"
        starts.append(start)
    if starts[:-1] == [None] * (len(PROBES) - 1):  # what a single token says, the last probe, is any number
        return None
    if len(set(starts)) > 1:
        return f"{value.name} is no position: it starts at {starts}"
    return starts[0]


def _start(
    array: np.ndarray[tuple[int, ...], np.dtype[np.int64]], shape: tuple[int, int]
) -> int | str | None:
    batch, sequence = shape
    if array.shape not in ((sequence,), (1, sequence), (batch, sequence)):
        return f"for tokens {list(shape)} it has shape {list(array.shape)}"
    first = int(array.reshape(-1)[0])
    if sequence > 1 and np.all(array == first):
        return None
    if not np.array_equal(array, np.broadcast_to(first + np.arange(sequence), array.shape)):
        return f"for tokens {list(shape)} it is {array.tolist()}"
    return first


def base_of(value: ir.Value) -> ir.Value:
    """The integers that `value` is a differently shaped copy of."""
    step = made_by(value, "Unsqueeze", "Squeeze", "Expand", "Reshape", "Identity", "Cast")
    while step is not None and step.inputs[0] is not None and _is_integer(step.inputs[0]):
        value = step.inputs[0]
        step = made_by(value, "Unsqueeze", "Squeeze", "Expand", "Reshape", "Identity", "Cast")
    return value


def integer_sources(values: Sequence[ir.Value]) -> list[ir.Value]:
    """The integers that floating-point arithmetic before `values` starts from."""
    found, seen, pending = dict[ir.Value, None](), set[ir.Value](), list(values)
    while pending:
        value = pending.pop()
        node = value.producer()
        if value in seen or node is None:
            continue
        seen.add(value)
        source = node.inputs[0] if node.op_type == "Cast" else None
        if source is not None and _is_integer(source):
            found[base_of(source)] = None
            continue
        # Shapes and axes are integers, too, and say nothing of positions.
        pending += [one for one in node.inputs if one is not None and not _is_integer(one)]
    return list(found)


def _is_integer(value: ir.Value) -> bool:
    if value.dtype is not None:
        return value.dtype.is_integer()
    node = value.producer()
    if node is None or not node.inputs or node.inputs[0] is None:
        return False
    if node.op_type in ("Shape", "Size", "ArgMax", "NonZero"):
        return True
    if node.op_type == "Cast":
        return ir.DataType(node.attributes["to"].as_int()).is_integer()
    keeps = (
        "Range",
        "Unsqueeze",
        "Squeeze",
        "Expand",
        "Reshape",
        "Slice",
        "Gather",
        "Add",
        "Sub",
        "CumSum",
        "Concat",
    )
    return node.op_type in keeps and _is_integer(node.inputs[0])
