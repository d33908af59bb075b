"""Movements whose source is contiguous along another axis than the result: squares of 16 × 16 in registers.

Sixteen vectors of the source are transposed in four steps, which exchange blocks of 1, 2, 4 and 8 lanes. An
axis of at least 16 elements is covered by squares of which the last overlaps; the result's axis may end in
filled elements (padded channels), and the source's may be shorter than 16 where its rows have padding that
can be read.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from intaglio.kernels import tir
from intaglio.kernels.movement.loops import places, unflattened, views
from intaglio.kernels.movement.movement import BYTES, MovedAxis, Movement
from intaglio.kernels.tir import LANES, Expression, KernelFrame, tirx


def source_axis(movement: Movement) -> MovedAxis | None:
    """The axis along which the source is contiguous."""
    found = [axis for axis in movement.axes[:-1] if axis.source == 1 and axis.whole]
    return found[-1] if found else None


def fits(movement: Movement) -> bool:
    """Whether a canonical movement can be made by transposed squares."""
    row, other = movement.axes[-1], source_axis(movement)
    if BYTES[movement.element] != 4 or other is None or row.result != 1 or row.source < 1 or row.before:
        return False
    if movement.filled or any(not axis.whole for axis in movement.axes[:-1]):
        return False
    across = row.extent >= LANES if row.whole else row.extent % LANES == 0
    strides = [movement.source_offset, *(axis.source for axis in movement.axes if axis is not other)]
    aligned = all(stride % LANES == 0 for stride in strides)
    return across and (other.extent >= LANES or aligned)


@dataclass(frozen=True)
class _Square:
    """Where a square starts, and how many of its source vectors there are."""

    source: Expression
    result: Expression
    vectors: int


def emit_transposition(movement: Movement, frame: KernelFrame) -> None:
    """Write the code of a canonical movement that fits."""
    row, other = movement.axes[-1], source_axis(movement)
    assert other is not None, "checked by fits"
    axes = [axis for axis in movement.axes[:-1] if axis is not other]
    source, result = views(movement, frame)
    down, across = -(-row.extent // LANES), -(-other.extent // LANES)
    last = row.valid // LANES  # square of the row whose vectors are not all there

    def unit(index: Expression) -> None:
        square = tir.hold(tirx.floormod(index, tir.int32(down * across)))
        indices = unflattened(tir.hold(tirx.floordiv(index, tir.int32(down * across))), axes)
        origin, to = places(movement, axes, indices)
        i = _start(tirx.floordiv(square, tir.int32(across)), row.extent)
        j = _start(tirx.floormod(square, tir.int32(across)), other.extent)
        origin = tir.hold(origin + i * tir.int32(row.source) + j)
        to = tir.hold(to + i + j * tir.int32(other.result))
        if row.whole:
            transpose(_Square(origin, to, LANES))
            return
        with T.If(i < tir.int32(last * LANES)):
            with T.Then():
                transpose(_Square(origin, to, LANES))
            with T.Else(), T.If(i.equal(tir.int32(last * LANES))):
                with T.Then():
                    transpose(_Square(origin, to, row.valid % LANES))
                with T.Else():
                    transpose(_Square(origin, to, 0))

    def transpose(square: _Square) -> None:
        number = movement.fill if movement.element == "float32" else int(movement.fill)
        filled = tir.spread(tir.constant(number, movement.element))
        vectors = [
            tir.bind(tir.load(source, [square.source + tir.int32(i * row.source)]))
            for i in range(square.vectors)
        ]
        vectors += [filled] * (LANES - square.vectors)
        for j, vector in enumerate(transposed(vectors)[: min(LANES, other.extent)]):
            tir.store(result, [square.result + tir.int32(j * other.result)], vector)

    units = down * across
    for axis in axes:
        units *= axis.extent
    frame.each_own(units, unit)


def _start(square: Expression, extent: int) -> Expression:
    """The first element of a square along an axis; the last square overlaps with the one before it."""
    return tir.hold(tirx.Min(square * tir.int32(LANES), tir.int32(max(0, extent - LANES))))


def transposed(vectors: list[Expression]) -> list[Expression]:
    """Sixteen vectors of 16 lanes, transposed."""
    block = 1
    while block < LANES:
        vectors = [_exchanged(vectors, i, block) for i in range(LANES)]
        block *= 2
    return vectors


def _exchanged(vectors: list[Expression], i: int, block: int) -> Expression:
    """Vector i after blocks of lanes have changed places with those of its partner."""
    low = i & ~block
    pick = block if i & block else 0
    lanes = [(lane & ~block) + pick + (LANES if lane & block else 0) for lane in range(LANES)]
    pair = [vectors[low], vectors[low | block]]
    return tir.hold(tirx.Shuffle(pair, [tir.int32(lane) for lane in lanes]))
