"""How prefill cuts its work: tiles of queries, and where a tile's state lies while it goes over the cache."""

from __future__ import annotations

import math
from dataclasses import dataclass

from intaglio.kernels.attention.heads import BLOCK, Heads
from intaglio.kernels.instructions import Instructions
from intaglio.kernels.tir import LANES

FEW_ROWS, MOST_ROWS = 24, 64  # of a tile: enough to read keys and values seldom, few enough for the cache


@dataclass(frozen=True)
class Tiling:
    """Register tiles of `rows` queries × `vectors` vectors of positions or components."""

    rows: int
    vectors: int

    def tokens(self, repeat: int) -> int:
        """Tokens of a tile, whose queries of `repeat` heads share a key head: few rows are left over."""
        step = self.rows // math.gcd(self.rows, repeat)
        if step * repeat > MOST_ROWS:
            return -(-FEW_ROWS // repeat)
        return step * -(-FEW_ROWS // (step * repeat))


WIDE, NARROW = Tiling(6, 4), Tiling(3, 2)


def tiling_of(instructions: Instructions) -> Tiling:
    """What fits the registers of a family."""
    return WIDE if instructions.wide else NARROW


@dataclass(frozen=True)
class Scratch:
    """A worker's memory, in floats: offsets of a tile's parts."""

    heads: Heads
    tiling: Tiling

    @property
    def columns(self) -> int:
        """Components of a head, padded to whole vectors."""
        return -(-self.heads.head_dim // LANES) * LANES

    @property
    def groups(self) -> int:
        """Register tiles of a whole tile."""
        return -(-self.tiling.tokens(self.heads.repeat) * self.heads.repeat // self.tiling.rows)

    @property
    def rows(self) -> int:
        """Queries of a whole tile, padded to whole register tiles."""
        return self.groups * self.tiling.rows

    @property
    def outputs(self) -> int:
        """`[rows, columns]`, after the queries of the same shape."""
        return self.rows * self.columns

    @property
    def totals(self) -> int:
        """`[rows, 16]`: sums of weights, lane by lane."""
        return 2 * self.rows * self.columns

    @property
    def largest(self) -> int:
        """`[groups, 16]`: the largest score of each row of a register tile."""
        return self.totals + self.rows * LANES

    @property
    def keys(self) -> int:
        """`[components or pairs, 64]`: a block's keys, where products need another form than the cache's."""
        return self.largest + self.groups * LANES

    @property
    def values(self) -> int:
        """`[positions or pairs, columns]`, as keys."""
        return self.keys + (self.columns + LANES) * BLOCK

    @property
    def size(self) -> int:
        """Of all."""
        return self.values + BLOCK * self.columns


def scratch_floats(heads: Heads) -> int:
    """Enough for every family of instructions."""
    return max(Scratch(heads, one).size for one in (WIDE, NARROW))
