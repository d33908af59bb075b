"""What describes a block format, and the pieces that several formats are decoded with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Blocks: TypeAlias = NDArray[np.uint8]  # [rows, blocks, bytes]
Decode: TypeAlias = Callable[[Blocks], NDArray[np.generic]]


@dataclass(frozen=True)
class BlockFormat:
    """How one quantised tensor type is decoded: part by part, each from the raw blocks of some rows."""

    group: int  # numbers that share a scale
    code_type: ir.DataType
    codes: Decode  # packed uint8 [rows, K / 2] for 4-bit types, else [rows, K]
    scale_type: ir.DataType
    scale: Decode  # [rows, K / group]
    minimum: Decode | None = None  # [rows, K / group], of the scale's type


def half(start: int) -> Decode:
    """The float16 at byte `start` of every block."""

    def decode(blocks: Blocks) -> NDArray[np.generic]:
        return np.ascontiguousarray(blocks[..., start : start + 2]).view(np.float16)[..., 0]

    return decode


def neighbours(nibbles: Blocks) -> Blocks:
    """n bytes that hold elements (j, j + n) → n bytes that hold elements (2j, 2j + 1), low bits first."""
    even, odd = nibbles[..., 0::2], nibbles[..., 1::2]
    return np.concatenate([(even & 15) | (odd << 4), (even >> 4) | (odd & 0xF0)], axis=-1)


def low_bits(nibbles: Blocks) -> Blocks:
    """n bytes that hold elements (j, j + n) → 2n bytes in the order of the elements."""
    return np.concatenate([nibbles & 15, nibbles >> 4], axis=-1)


def pairs(codes: Blocks) -> Blocks:
    """Codes of four bits, one in a byte → two neighbours in a byte, the first in the low bits."""
    return codes[..., 0::2] & np.uint8(15) | codes[..., 1::2] << np.uint8(4)


def rows(parts: NDArray[np.generic]) -> NDArray[np.generic]:
    """All numbers of a row in one axis."""
    return parts.reshape(parts.shape[0], -1)
