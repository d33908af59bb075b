"""Instruction families as data: what a kernel may count on when it chooses its tiles and its products."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class ByteDots(Enum):
    """Sums of products of unsigned and signed bytes, in 32-bit lanes."""

    NONE = "none"  # widened, multiplied and added by whatever LLVM finds
    VPDPBUSD_512 = "vpdpbusd"  # AVX-512 VNNI: 64 products at once


class Bfloat16Dots(Enum):
    """Sums of two products of bfloat16, in float32 lanes."""

    NONE = "none"  # widened and multiplied as float32
    VDPBF16PS_512 = "vdpbf16ps"  # AVX-512 BF16: 32 products at once


@dataclass(frozen=True)
class Instructions:
    """A family; everything that is not said here is left to LLVM."""

    name: str  # as targets call it
    registers: int  # 16-lane float registers, as far as a kernel should count on them
    byte_dots: ByteDots = ByteDots.NONE
    bfloat16_dots: Bfloat16Dots = Bfloat16Dots.NONE

    @property
    def wide(self) -> bool:
        """Whether a 16-lane vector is one register, of which there are many."""
        return self.registers >= 32


PLAIN = Instructions("plain", 8)  # vectors of whatever width LLVM finds: AVX2, NEON, SSE
AVX512 = Instructions("avx512", 32)
AVX512_VNNI = Instructions("avx512-vnni", 32, ByteDots.VPDPBUSD_512)
AVX512_BF16 = Instructions("avx512-bf16", 32, ByteDots.VPDPBUSD_512, Bfloat16Dots.VDPBF16PS_512)

FAMILIES = (PLAIN, AVX512, AVX512_VNNI, AVX512_BF16)


def instructions_named(name: str) -> Instructions:
    """The family called `name`; raises `KeyError` for others."""
    return {one.name: one for one in FAMILIES}[name]
