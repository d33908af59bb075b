"""Which inputs an output of a convolution is computed from, along one axis.

A transposed convolution of stride s is s convolutions of stride 1, one for each remainder of the output's
index: its phases. An ordinary one has one phase.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

TILE_COST = 0.5  # of a tile's beginning and end, in outputs


@dataclass(frozen=True)
class Axis:
    """One phase: output `start + q · step`, q < count, is a sum over taps j of inputs.

    Tap j reads the input `q · input_step + offset + j · offset_step`, which is zero outside `0 … extent`,
    times the weight `tap + j · tap_step`.
    """

    extent: int
    count: int
    start: int
    step: int
    input_step: int
    taps: int
    offset: int
    offset_step: int  # positive
    tap: int
    tap_step: int

    def reads(self, q: int, tap: int) -> int:
        """Where tap `tap` of output `q` reads, inside the input or not."""
        return q * self.input_step + self.offset + tap * self.offset_step

    @property
    def inside(self) -> bool:
        """Whether no tap of any output is outside."""
        return self.reads(0, 0) >= 0 and self.reads(self.count - 1, self.taps - 1) < self.extent


@dataclass(frozen=True)
class Run:
    """Taps `first … first + taps` of a tile, which read inside the input for the same of its outputs."""

    first: int
    taps: int
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Tiles:
    """`tiles` tiles from tile `first` on that are computed alike."""

    first: int
    tiles: int
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Tiling:
    """The outputs of an axis in tiles of `size`; the last one may overlap with the one before it."""

    size: int
    tiles: int
    groups: tuple[Tiles, ...]


def output_extent(
    extent: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int], transposed: bool, more: int
) -> int:
    """How many outputs an axis has; `more` is the output padding of a transposed convolution."""
    reach = dilation * (kernel - 1) + 1
    if transposed:
        return (extent - 1) * stride + reach + more - sum(pads)
    return (extent + sum(pads) - reach) // stride + 1


def phases(
    extent: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int], transposed: bool, more: int
) -> list[Axis]:
    """The phases of an axis, those without outputs left out."""
    outputs = output_extent(extent, kernel, stride, dilation, pads, transposed, more)
    if not transposed:
        return [Axis(extent, outputs, 0, 1, stride, kernel, -pads[0], dilation, 0, 1)]
    every = stride // math.gcd(stride, dilation)  # taps that reach the same phase
    found = []
    for start in range(min(stride, outputs)):
        hits = [j for j in range(kernel) if (start + pads[0] - j * dilation) % stride == 0]
        last = hits[-1] if hits else 0  # the tap that reads furthest to the left
        offset = (start + pads[0] - last * dilation) // stride
        count = -(-(outputs - start) // stride)
        step = dilation * every // stride
        found.append(Axis(extent, count, start, stride, 1, len(hits), offset, step, last, -every))
    return found


def tile_size(count: int, most: int) -> int:
    """The outputs of a tile, at most `most`: few tiles, and few outputs that are computed twice."""
    if count <= most:
        return count
    sizes = range(most, (most - 1) // 2, -1)
    return min(sizes, key=lambda size: -(-count // size) * (size + TILE_COST))


def tiling(axis: Axis, most: int) -> Tiling:
    """Tiles of at most `most` outputs."""
    size = tile_size(axis.count, most)
    tiles = -(-axis.count // size)
    groups: list[Tiles] = []
    for index in range(tiles):
        found = runs(axis, min(index * size, axis.count - size), size)
        if groups and groups[-1].runs == found:
            groups[-1] = Tiles(groups[-1].first, groups[-1].tiles + 1, found)
        else:
            groups.append(Tiles(index, 1, found))
    return Tiling(size, tiles, tuple(groups))


def runs(axis: Axis, first: int, size: int) -> tuple[Run, ...]:
    """The runs of a tile's taps; taps that read inside the input for no output are left out."""
    found: list[Run] = []
    for tap in range(axis.taps):
        inside = tuple(p for p in range(size) if 0 <= axis.reads(first + p, tap) < axis.extent)
        if not inside:
            continue
        if found and found[-1].positions == inside and found[-1].first + found[-1].taps == tap:
            found[-1] = Run(found[-1].first, found[-1].taps + 1, inside)
        else:
            found.append(Run(tap, 1, inside))
    return tuple(found)


def wanted(axis: Axis, tile: tuple[Run, ...]) -> dict[int, list[tuple[int, int]]]:
    """Inputs, counted from the one that tap 0 of the tile's first output reads → outputs and taps that do."""
    found: dict[int, list[tuple[int, int]]] = {}
    for run in tile:
        for tap in range(run.first, run.first + run.taps):
            for position in run.positions:
                place = position * axis.input_step + tap * axis.offset_step
                found.setdefault(place, []).append((position, tap))
    return found
