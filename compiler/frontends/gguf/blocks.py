"""GGUF blocks taken apart into codes, scales and minima: the file's own bits, never rounded again.

A weight is `code · scale` or `code · scale + minimum`, with one scale for a group of neighbours in a row.
A part is decoded by a function from raw blocks, uint8 `[rows, blocks, bytes]`, to an array of `rows` rows.
4-bit codes leave packed as ONNX packs them: two neighbours in a byte, the first in the low bits.
Layouts: `block_q4_0` and its kin in ggml-common.h; a block's byte `j` holds elements `j` and `j + 16`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Blocks = NDArray[np.uint8]
Decode = Callable[[Blocks], NDArray[np.generic]]

HALF_OF_INT4 = np.uint8(0x88)  # flips the top bit of both codes of a byte: code 0…15 becomes code − 8


@dataclass(frozen=True)
class BlockFormat:
    """How one quantised tensor type is decoded."""

    group: int  # numbers that share a scale
    code_type: ir.DataType
    codes: Decode  # packed uint8 [rows, K / 2] for 4-bit types, else [rows, K]
    scale_type: ir.DataType
    scale: Decode  # [rows, K / group]
    minimum: Decode | None = None  # [rows, K / group], of the scale's type


def _half(start: int) -> Decode:
    """The float16 at byte `start` of every block."""

    def decode(blocks: Blocks) -> NDArray[np.generic]:
        return np.ascontiguousarray(blocks[..., start : start + 2]).view(np.float16)[..., 0]

    return decode


def _neighbours(nibbles: Blocks) -> Blocks:
    """Pairs (j, j + 16) in 16 bytes → pairs of neighbours in 16 bytes."""
    even, odd = nibbles[..., 0::2], nibbles[..., 1::2]
    low, high = (even & 15) | (odd << 4), (even >> 4) | (odd & 0xF0)
    return np.concatenate([low, high], axis=-1)


def _flatten(codes: NDArray[np.generic]) -> NDArray[np.generic]:
    return codes.reshape(codes.shape[0], -1)


def _nibbles(start: int) -> Decode:
    return lambda blocks: _flatten(_neighbours(blocks[..., start:]))


def _signed_nibbles(start: int) -> Decode:
    return lambda blocks: _flatten(_neighbours(blocks[..., start:]) ^ HALF_OF_INT4)


def _five_bits(start: int) -> Decode:
    """Codes 0…31: 32 top bits in four bytes, then the low four bits of each."""

    def decode(blocks: Blocks) -> NDArray[np.generic]:
        top = np.unpackbits(blocks[..., start : start + 4], axis=-1, bitorder="little")
        nibbles = blocks[..., start + 4 :]
        low = np.concatenate([nibbles & 15, nibbles >> 4], axis=-1)
        return _flatten(low | (top << 4))

    return decode


def _signed_five_bits(start: int) -> Decode:
    unsigned = _five_bits(start)
    return lambda blocks: unsigned(blocks).view(np.int8) - np.int8(16)


def _bytes(start: int) -> Decode:
    return lambda blocks: _flatten(np.ascontiguousarray(blocks[..., start:])).view(np.int8)


BLOCK_FORMATS: Mapping[str, BlockFormat] = {
    "Q4_0": BlockFormat(32, ir.DataType.INT4, _signed_nibbles(2), ir.DataType.FLOAT16, _half(0)),
    "Q4_1": BlockFormat(32, ir.DataType.UINT4, _nibbles(4), ir.DataType.FLOAT16, _half(0), _half(2)),
    "Q5_0": BlockFormat(32, ir.DataType.INT8, _signed_five_bits(2), ir.DataType.FLOAT16, _half(0)),
    "Q5_1": BlockFormat(32, ir.DataType.UINT8, _five_bits(4), ir.DataType.FLOAT16, _half(0), _half(2)),
    "Q8_0": BlockFormat(32, ir.DataType.INT8, _bytes(2), ir.DataType.FLOAT16, _half(0)),
}
