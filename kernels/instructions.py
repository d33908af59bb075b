"""Instruction families as data: what a kernel may count on when it chooses its tiles and its products.

Kernels ask for what a family has (`byte_dots`, `registers`), never for its name. How the products are spelled
in LLVM's language stands in `llvm/functions.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class ByteDots(Enum):
    """Sums of four products of unsigned and signed bytes, in 32-bit lanes; all of them are exact."""

    NONE = "none"  # widened, multiplied and added by whatever LLVM finds
    PMADDUBSW_256 = "vpmaddubsw ymm"  # AVX2: pairs of products in 16 bits, which small codes do not overflow
    PMADDUBSW_512 = "vpmaddubsw zmm"  # AVX-512 BW: the same
    VPDPBUSD_256 = "vpdpbusd ymm"  # AVX-VNNI: 32 products at once
    VPDPBUSD_512 = "vpdpbusd zmm"  # AVX-512 VNNI: 64 products at once
    SMULL = "smull"  # NEON: products in 16 bits, added pairwise
    SDOT = "sdot"  # Arm dot product: signed bytes; codes above 127 are shifted by 128
    USDOT = "usdot"  # Arm i8mm: unsigned by signed

    @property
    def in_pairs(self) -> bool:
        """Whether pairs of products may stay in 16 bits over some columns (`tir.add_pairs`)."""
        return self in (ByteDots.PMADDUBSW_256, ByteDots.PMADDUBSW_512)


class ByteTiles(Enum):
    """Products of two small matrices of bytes, for the products of many tokens."""

    NONE = "none"
    USMMLA = "usmmla"  # Arm i8mm: 2×8 by 8×2
    AMX = "tdpbsud"  # 16×64 by 64×16, in tile registers


class Bfloat16Dots(Enum):
    """Sums of two products of bfloat16, in float32 lanes."""

    NONE = "none"  # widened and multiplied as float32
    VDPBF16PS_512 = "vdpbf16ps"  # AVX-512 BF16: 32 products at once
    BFDOT = "bfdot"  # Arm bf16: 8 products at once


@dataclass(frozen=True)
class Instructions:
    """A family; everything that is not said here is left to LLVM."""

    name: str  # as targets call it
    registers: int  # 16-lane float registers, as far as a kernel should count on them
    byte_dots: ByteDots = ByteDots.NONE
    bfloat16_dots: Bfloat16Dots = Bfloat16Dots.NONE
    byte_tiles: ByteTiles = ByteTiles.NONE

    @property
    def wide(self) -> bool:
        """Whether a 16-lane vector is one register, of which there are many."""
        return self.registers >= 32


_VNNI, _BF16 = ByteDots.VPDPBUSD_512, Bfloat16Dots.VDPBF16PS_512
PLAIN = Instructions("plain", 8)  # vectors of whatever width LLVM finds, on any processor
AVX2 = Instructions("avx2", 8, ByteDots.PMADDUBSW_256)
AVX_VNNI = Instructions("avx-vnni", 8, ByteDots.VPDPBUSD_256)
AVX512 = Instructions("avx512", 32, ByteDots.PMADDUBSW_512)
AVX512_VNNI = Instructions("avx512-vnni", 32, _VNNI)
AVX512_BF16 = Instructions("avx512-bf16", 32, _VNNI, _BF16)
AMX = Instructions("amx", 32, _VNNI, _BF16, ByteTiles.AMX)
NEON = Instructions("neon", 8, ByteDots.SMULL)
ARM_DOT = Instructions("arm-dot", 8, ByteDots.SDOT)
ARM_I8MM = Instructions("arm-i8mm", 8, ByteDots.USDOT, byte_tiles=ByteTiles.USMMLA)
ARM_BF16 = Instructions("arm-bf16", 8, ByteDots.USDOT, Bfloat16Dots.BFDOT, ByteTiles.USMMLA)

X86_FAMILIES = (AVX2, AVX_VNNI, AVX512, AVX512_VNNI, AVX512_BF16, AMX)
ARM_FAMILIES = (NEON, ARM_DOT, ARM_I8MM, ARM_BF16)
FAMILIES = (PLAIN, *X86_FAMILIES, *ARM_FAMILIES)


def instructions_named(name: str) -> Instructions:
    """The family called `name`; raises `KeyError` for others."""
    return {one.name: one for one in FAMILIES}[name]
