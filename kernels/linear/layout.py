"""How the weights of a linear layer lie in memory: blocks of 16 output rows, one row per vector lane.

Quantised codes, `[blocks, columns / 8, 16 rows, 4 bytes]` for 4 bits: a 64-byte line holds 8 columns of 16
rows; byte c of a row has column c in its low and column c + 4 in its high nibble. For 8 bits a line holds 4
columns. Scales and minima are `[blocks, columns / group, 16]`. Floating-point weights are
`[blocks, columns, 16]`; bfloat16 comes in pairs of columns, `[blocks, columns / 2, 16, 2]`. Rows are padded
to a multiple of 16 by zero weights.

With `interleave = 2` the rows are two halves (gate, up), each padded, and blocks alternate between them, so
that a kernel has both halves of a gated unit at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

ROWS = 16  # per block
Element = TypeVar("Element", bound=np.generic)


@dataclass(frozen=True)
class QuantizedWeight:
    """Layout of a weight `scale · (code − offset) + minimum`, scales and minima per group of columns."""

    rows: int
    columns: int
    bits: int  # 4 or 8, codes unsigned
    group: int  # columns sharing a scale
    offset: int  # subtracted from every code
    minimum: str  # float16 or float32 if a minimum is added, else empty
    scale_dtype: str  # float16 or float32
    interleave: int = 1

    def describe(self) -> str:
        """In words, for reports."""
        groups = "per channel" if self.group == self.columns else f"groups of {self.group}"
        return f"int{self.bits}, {groups}, {self.scale_dtype} scales" + (", minima" if self.minimum else "")

    @property
    def blocks(self) -> int:
        """Blocks of 16 rows."""
        return padded_rows(self.rows, self.interleave) // ROWS

    @property
    def chunk(self) -> int:
        """Columns in a 64-byte line of codes."""
        return 8 if self.bits == 4 else 4

    @property
    def largest_code(self) -> int:
        """Codes are 0 … this."""
        return (1 << self.bits) - 1

    @property
    def code_bytes(self) -> int:
        """Bytes of packed codes."""
        return self.blocks * (self.columns // self.chunk) * 64

    @property
    def scale_bytes(self) -> int:
        """Bytes of packed scales."""
        return self.blocks * (self.columns // self.group) * ROWS * np.dtype(self.scale_dtype).itemsize

    @property
    def minimum_bytes(self) -> int:
        """Bytes of packed minima."""
        size = np.dtype(self.minimum).itemsize if self.minimum else 0
        return self.blocks * (self.columns // self.group) * ROWS * size

    @property
    def bytes(self) -> int:
        """All packed bytes."""
        return self.code_bytes + self.scale_bytes + self.minimum_bytes


@dataclass(frozen=True)
class FloatWeight:
    """Layout of a floating-point weight."""

    rows: int
    columns: int
    dtype: str  # float32 or bfloat16
    interleave: int = 1

    def describe(self) -> str:
        """In words, for reports."""
        return self.dtype

    @property
    def blocks(self) -> int:
        """Blocks of 16 rows."""
        return padded_rows(self.rows, self.interleave) // ROWS

    @property
    def padded_columns(self) -> int:
        """Columns, made even for bfloat16 pairs."""
        return self.columns + self.columns % 2 if self.dtype == "bfloat16" else self.columns

    @property
    def bytes(self) -> int:
        """All packed bytes."""
        return self.blocks * self.padded_columns * ROWS * (2 if self.dtype == "bfloat16" else 4)


def padded_rows(rows: int, interleave: int = 1) -> int:
    """Rows after padding each of the `interleave` parts to whole blocks."""
    part = rows // interleave
    return interleave * (-(-part // ROWS) * ROWS)


def block_rows(array: NDArray[Element], interleave: int) -> NDArray[Element]:
    """`[rows, x]` → `[blocks, 16, x]`: parts padded by zeros, then interleaved block by block."""
    rows, width = array.shape
    part = rows // interleave
    padded = padded_rows(rows, interleave) // interleave
    blocks = np.zeros((interleave, padded, width), array.dtype)
    blocks[:, :part] = array.reshape(interleave, part, width)
    parts = blocks.reshape(interleave, padded // ROWS, ROWS, width)
    return np.ascontiguousarray(parts.swapaxes(0, 1)).reshape(-1, ROWS, width)


def pack_codes(codes: NDArray[np.uint8], layout: QuantizedWeight) -> NDArray[np.uint8]:
    """Unsigned codes `[rows, columns]`, one per byte → packed bytes, flat."""
    blocks = block_rows(codes, layout.interleave)
    if layout.bits == 8:
        lines: NDArray[np.uint8] = blocks.reshape(layout.blocks, ROWS, -1, 4)
    else:
        halves = blocks.reshape(layout.blocks, ROWS, -1, 2, 4)
        lines = halves[:, :, :, 0] | (halves[:, :, :, 1] << np.uint8(4))
    packed: NDArray[np.uint8] = np.ascontiguousarray(lines.swapaxes(1, 2), np.uint8).reshape(-1)
    return packed


def pack_groups(values: NDArray[np.floating], layout: QuantizedWeight, dtype: str) -> NDArray[np.floating]:
    """Scales or minima `[rows, columns / group]` → `[blocks, columns / group, 16]`, flat."""
    blocks = block_rows(values.astype(dtype), layout.interleave)
    packed: NDArray[np.floating] = np.ascontiguousarray(blocks.swapaxes(1, 2)).reshape(-1)
    return packed


def pack_float(weight: NDArray[np.generic], layout: FloatWeight) -> NDArray[np.generic]:
    """`[rows, columns]` float32, or bfloat16 as uint16 bit patterns → packed, flat."""
    blocks = block_rows(weight, layout.interleave)
    if layout.padded_columns != layout.columns:
        blocks = np.pad(blocks, ((0, 0), (0, 0), (0, 1)))
    if layout.dtype == "bfloat16":
        blocks = blocks.reshape(layout.blocks, ROWS, -1, 2)
    return np.ascontiguousarray(blocks.swapaxes(1, 2)).reshape(-1)
