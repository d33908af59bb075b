"""GGUF blocks taken apart into codes, scales and minima: the file's own bits, never rounded again.

A weight is `code · scale` or `code · scale + minimum`, with one scale for a group of neighbours in a row.
4-bit codes leave packed as ONNX packs them: two neighbours in a byte, the first in the low bits.
Layouts: `block_q4_0` and its kin in ggml-common.h; byte `j` of the nibbles holds elements `j` and `j + 16`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.compiler.frontends.gguf.block_format import (
    BlockFormat,
    Blocks,
    Decode,
    half,
    low_bits,
    neighbours,
    rows,
)
from intaglio.compiler.frontends.gguf.superblocks import SUPERBLOCK_FORMATS

FLIP_TOP_BITS = np.uint8(0x88)  # turns both codes 0…15 of a byte into the int4 codes −8…7


def _nibbles(start: int) -> Decode:
    return lambda blocks: rows(neighbours(blocks[..., start:]))


def _signed_nibbles(start: int) -> Decode:
    return lambda blocks: rows(neighbours(blocks[..., start:]) ^ FLIP_TOP_BITS)


def _five_bits(start: int) -> Decode:
    """Codes 0…31: the top bits of 32 codes in four bytes, then the rest as nibbles."""

    def decode(blocks: Blocks) -> NDArray[np.generic]:
        top = np.unpackbits(blocks[..., start : start + 4], axis=-1, bitorder="little")
        return rows(low_bits(blocks[..., start + 4 :]) | (top << 4))

    return decode


def _signed_five_bits(start: int) -> Decode:
    unsigned = _five_bits(start)
    return lambda blocks: unsigned(blocks).view(np.int8) - np.int8(16)


def _bytes(start: int) -> Decode:
    return lambda blocks: rows(np.ascontiguousarray(blocks[..., start:])).view(np.int8)


INT4, UINT4, INT8, UINT8 = ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT8, ir.DataType.UINT8
FLOAT16 = ir.DataType.FLOAT16
BLOCK_FORMATS: Mapping[str, BlockFormat] = {
    "Q4_0": BlockFormat(32, INT4, _signed_nibbles(2), FLOAT16, half(0)),
    "Q4_1": BlockFormat(32, UINT4, _nibbles(4), FLOAT16, half(0), half(2)),
    "Q5_0": BlockFormat(32, INT8, _signed_five_bits(2), FLOAT16, half(0)),
    "Q5_1": BlockFormat(32, UINT8, _five_bits(4), FLOAT16, half(0), half(2)),
    "Q8_0": BlockFormat(32, INT8, _bytes(2), FLOAT16, half(0)),
    **SUPERBLOCK_FORMATS,
}
