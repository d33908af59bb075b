"""Which instruction family a kernel is generated for."""

from __future__ import annotations

from enum import Enum


class Instructions(Enum):
    """The families that kernels distinguish; everything else is left to LLVM."""

    PLAIN = "plain"  # vectors of whatever width LLVM finds: AVX2, NEON, SSE
    AVX512_VNNI = "avx512-vnni"  # 512-bit vectors and vpdpbusd: 64 products of 8-bit integers at once

    @property
    def registers(self) -> int:
        """16-lane float registers, as far as a kernel should count on them."""
        return 32 if self is Instructions.AVX512_VNNI else 8
