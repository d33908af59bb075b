"""Products that TVM has no word for, as functions in LLVM's own language.

Every family's functions have the same names and take 16 lanes, whatever the width of its registers: they are
inlined, and LLVM splits and joins nothing in the end. All vectors are `<16 x i32>`, bytes four to a lane:

- `intaglio_dot4(sum, codes, factors)`: Σ of four products, unsigned codes by signed factors;
- `intaglio_dot4_small`: the same for codes of at most 127, which spares some families half the work;
- `intaglio_pairs(pairs, codes, factors)`, `intaglio_widen(sum, pairs)`: sums of two products in 16 bits;
- `intaglio_halves(sum, codes, even, odd)`: Σ of four products by factors of 16 bits, where there are pairs;
- `intaglio_opaque(n)`: n, where there are pairs, for counts of loops that must stay loops;
- `intaglio_dot2(sum, pairs, factors)`: Σ of two products of bfloat16, in `<16 x float>`;
- `intaglio_narrow(numbers)`: 16 float32 rounded to bfloat16, in pairs, `<8 x i32>`; where there is dot2;
- `intaglio_matrix(sum, rows, tokens)`: four times 2 rows × 8 columns by 8 columns × 2 tokens.
"""

from __future__ import annotations

from intaglio.kernels.instructions import Bfloat16Dots, ByteDots, ByteTiles, Instructions
from intaglio.kernels.llvm import amx, arm, x86

X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
BYTE_DOTS = {
    ByteDots.NONE: "",
    ByteDots.PMADDUBSW_256: x86.pmaddubsw(256),
    ByteDots.PMADDUBSW_512: x86.pmaddubsw(512),
    ByteDots.VPDPBUSD_256: x86.vpdpbusd(256),
    ByteDots.VPDPBUSD_512: x86.vpdpbusd(512),
    ByteDots.SMULL: arm.with_dots(arm.SMULL),
    ByteDots.SDOT: arm.with_dots(arm.SDOT),
    ByteDots.USDOT: arm.with_dots(arm.USDOT),
}
BFLOAT16_DOTS = {
    Bfloat16Dots.NONE: "",
    Bfloat16Dots.VDPBF16PS_512: x86.VDPBF16PS,
    Bfloat16Dots.BFDOT: arm.BFDOT,
}
BYTE_TILES = {ByteTiles.NONE: "", ByteTiles.USMMLA: arm.MATRIX, ByteTiles.AMX: amx.TEXT}


def text_of(instructions: Instructions) -> str:
    """The functions of a family; empty where it has none."""
    text = (
        BYTE_DOTS[instructions.byte_dots]
        + BFLOAT16_DOTS[instructions.bfloat16_dots]
        + BYTE_TILES[instructions.byte_tiles]
    )
    triple = ARM if ".aarch64." in text else X86
    return f'target triple = "{triple}"\n{text}' if text else ""
