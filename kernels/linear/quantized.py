"""Parameters and inner loop that the quantised matrix-vector and matrix-matrix kernels share.

Activations come quantised per group of `activation_group` columns: codes a, scale s_a and Σa. With the weight
w = s_w (u − offset) + m a group contributes

    s_w · s_a · (Σ u a − offset · Σa)  +  m · s_a · Σa

so the offset is free: it is where the integer accumulator starts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.linear.layout import ROWS, FloatWeight, QuantizedWeight
from intaglio.kernels.tir import Expression, KernelFrame


@dataclass(frozen=True)
class Streams:
    """Views of the packed weight."""

    codes: Expression  # int32 [blocks, columns / chunk, 16]: four bytes per lane
    scales: Expression  # [blocks, columns / group, 16]
    minima: Expression | None


def weight_pointers(weight: QuantizedWeight) -> dict[str, str]:
    """The pointers through which a kernel gets a packed weight."""
    pointers = {"codes": "int32", "scales": weight.scale_dtype}
    if weight.minimum:
        pointers["minima"] = weight.minimum
    return pointers


def weight_streams(frame: KernelFrame, weight: QuantizedWeight) -> Streams:
    """Views of the packed weight in `frame`."""
    groups = (weight.blocks, weight.columns // weight.group, ROWS)
    lines = (weight.blocks, weight.columns // weight.chunk, ROWS)
    return Streams(
        frame.buffer("codes", lines, "int32"),
        frame.buffer("scales", groups, weight.scale_dtype),
        frame.buffer("minima", groups, weight.minimum) if weight.minimum else None,
    )


def unpack_line(weight: QuantizedWeight, line: Expression) -> list[Expression]:
    """A line of codes as vectors of four unsigned bytes per lane, in the order of the columns."""
    if weight.bits == 8:
        return [line]
    nibbles = tir.spread(tir.int32(0x0F0F0F0F))
    return [line & nibbles, (line >> tir.spread(tir.int32(4))) & nibbles]


def group_vector(values: Expression, block: Expression, group: Expression) -> Expression:
    """Scales or minima of a block's 16 rows in one group, as float32."""
    return tir.load(values, [block, group, 0]).astype("float32x16")


@dataclass(frozen=True)
class ActivationViews:
    """Quantised activations of one or many tokens."""

    codes: Expression  # int32 [tokens, columns / 4]: four signed bytes
    scales: Expression  # float32 [tokens, groups]
    sums: Expression  # int32 [tokens, groups]


ACTIVATION_POINTERS = {"activation": "int32", "activation_scales": "float32", "activation_sums": "int32"}


def activation_views(
    frame: KernelFrame, columns: int, group: int, tokens: Expression | int
) -> ActivationViews:
    """Views of the quantised activations in `frame`."""
    groups = columns // group
    return ActivationViews(
        frame.buffer("activation", (tokens, columns // 4), "int32"),
        frame.buffer("activation_scales", (tokens, groups), "float32"),
        frame.buffer("activation_sums", (tokens, groups), "int32"),
    )


def start(weight: QuantizedWeight, activation_sum: Expression) -> Expression:
    """Where a group's integer accumulator starts."""
    if weight.offset == 0:
        return tir.spread(tir.int32(0))
    return tir.spread(activation_sum * tir.int32(-weight.offset))


def dot_line(
    codes: list[Expression],
    activations: list[Expression],
    accumulator: Expression,
    instructions: Instructions,
    largest: int = 255,
) -> Expression:
    """Add Σ u a over one line of codes, `largest` being the largest code."""
    if instructions.byte_dots.in_pairs and largest * len(codes) < 128:
        pairs = tir.spread(tir.int32(0))
        for code, activation in zip(codes, activations, strict=True):
            pairs = tir.bind(tir.add_pairs(pairs, code, activation))
        return tir.bind(tir.widen_pairs(accumulator, pairs))
    for code, activation in zip(codes, activations, strict=True):
        accumulator = tir.bind(tir.dot4(accumulator, code, activation, instructions, largest))
    return accumulator


def float_code(weight: QuantizedWeight, codes: Expression, byte: int) -> Expression:
    """Byte `byte` of each lane's four codes, its offset taken off, as float32."""
    code = (codes >> tir.spread(tir.int32(8 * byte))) & tir.spread(tir.int32(255))
    return (code - tir.spread(tir.int32(weight.offset))).astype("float32x16")


def each_panel(
    frame: KernelFrame, weight: QuantizedWeight | FloatWeight, panel: Callable[[Expression, int], None]
) -> None:
    """Share out `panel(first block, blocks)` over pairs of blocks; an odd one goes to the last worker."""
    pairs, odd = divmod(weight.blocks, 2)
    frame.each_own(pairs, lambda pair: panel(pair * tir.int32(2), 2))
    if odd:
        with T.If(frame.worker == frame.workers - tir.int32(1)), T.Then():
            panel(tir.int32(weight.blocks - 1), 1)
