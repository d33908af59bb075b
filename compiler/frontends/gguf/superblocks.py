"""The k-quants Q2_K to Q6_K: 256 numbers in groups, whose scales are small integers times a float16.

Such a product has at most 19 significant bits, so it is exact in float32: nothing is lost by multiplying out.
Layouts: `block_q4_K` and its kin in ggml-common.h.
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
    pairs,
    rows,
)

SIX_BITS = slice(4, 16)  # where Q4_K and Q5_K keep eight scales and eight minima of six bits each
TWO_BITS = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
ONE_BIT = np.arange(8, dtype=np.uint8)[:, None]
UINT4, INT4, FLOAT = ir.DataType.UINT4, ir.DataType.INT4, ir.DataType.FLOAT
Numbers = NDArray[np.generic]


def _six_bits(blocks: Blocks) -> tuple[Blocks, Blocks]:
    """Scales and minima, uint8 `[…, 8]` each: the first four whole, the others' top bits above those."""
    packed = blocks[..., SIX_BITS]
    scale, minimum, low = packed[..., 0:4], packed[..., 4:8], packed[..., 8:12]
    scales = np.concatenate([scale & 63, (low & 15) | ((scale >> 2) & 48)], axis=-1)
    minima = np.concatenate([minimum & 63, (low >> 4) | ((minimum >> 2) & 48)], axis=-1)
    return scales, minima


def _times_half(start: int, factors: NDArray[np.generic], blocks: Blocks) -> NDArray[np.float32]:
    wide = half(start)(blocks).astype(np.float32)[..., None]
    return (wide * factors.astype(np.float32)).reshape(blocks.shape[0], -1)


def _scale(blocks: Blocks) -> Numbers:
    return _times_half(0, _six_bits(blocks)[0], blocks)


def _minimum(blocks: Blocks) -> Numbers:
    return -_times_half(2, _six_bits(blocks)[1], blocks)


def _scale_of_q2(blocks: Blocks) -> Numbers:
    return _times_half(80, blocks[..., 0:16] & 15, blocks)


def _minimum_of_q2(blocks: Blocks) -> Numbers:
    return -_times_half(82, blocks[..., 0:16] >> 4, blocks)


def _scale_of_q3(blocks: Blocks) -> Numbers:
    """Six bits, 32 subtracted: the low four as nibbles, the top two of groups j, j + 4, … in byte j."""
    low = low_bits(blocks[..., 96:104])
    top = (blocks[..., None, 104:108] >> TWO_BITS & 3).reshape(low.shape)
    return _times_half(108, (low | top << 4).view(np.int8) - np.int8(32), blocks)


def _scale_of_q6(blocks: Blocks) -> Numbers:
    factors = np.ascontiguousarray(blocks[..., 192:208]).view(np.int8)
    return _times_half(208, factors, blocks)


def _split(blocks: Blocks, start: int, stop: int, size: int) -> Blocks:
    """Bytes `start` to `stop` of every block, in runs of `size`."""
    return blocks[..., start:stop].reshape(*blocks.shape[:-1], -1, size)


def _codes_of_q2(blocks: Blocks) -> Numbers:
    """Four codes in a byte, 32 apart."""
    return rows(pairs(_split(blocks, 16, 80, 32)[..., None, :] >> TWO_BITS & np.uint8(3)))


def _codes_of_q3(blocks: Blocks) -> Numbers:
    """Codes −4…3, the low two bits as in Q2_K; bit i of `top` is set where run i of 32 is not negative."""
    low = _split(blocks, 32, 96, 32)[..., None, :] >> TWO_BITS & 3
    top = blocks[..., None, 0:32] >> ONE_BIT & 1
    return rows(pairs(low.reshape(top.shape) - ((top ^ 1) << 2)))


def _codes_of_q4(blocks: Blocks) -> Numbers:
    return rows(neighbours(_split(blocks, 16, 144, 32)))


def _codes_of_q5(blocks: Blocks) -> Numbers:
    """Bit i of a byte of `top` belongs to group i; two groups share a run of nibbles."""
    top = blocks[..., None, 16:48] >> ONE_BIT & 1
    low = low_bits(_split(blocks, 48, 176, 32))
    return rows(low.reshape(top.shape) | top << 4)


def _codes_of_q6(blocks: Blocks) -> Numbers:
    """Codes −32…31, of each half 128: 64 bytes of nibbles, and 32 bytes of four times two top bits."""
    top = _split(blocks, 128, 192, 32)[..., None, :] >> TWO_BITS & 3
    low = low_bits(_split(blocks, 0, 128, 64))
    return rows(low.reshape(top.shape) | top << 4).view(np.int8) - np.int8(32)


def _affine(code_type: ir.DataType, codes: Decode) -> BlockFormat:
    return BlockFormat(32, code_type, codes, FLOAT, _scale, _minimum)


SUPERBLOCK_FORMATS: Mapping[str, BlockFormat] = {
    "Q2_K": BlockFormat(16, UINT4, _codes_of_q2, FLOAT, _scale_of_q2, _minimum_of_q2),
    "Q3_K": BlockFormat(16, INT4, _codes_of_q3, FLOAT, _scale_of_q3),
    "Q4_K": _affine(UINT4, _codes_of_q4),
    "Q5_K": _affine(ir.DataType.UINT8, _codes_of_q5),
    "Q6_K": BlockFormat(16, ir.DataType.INT8, _codes_of_q6, FLOAT, _scale_of_q6),
}
