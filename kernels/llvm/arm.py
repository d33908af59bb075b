"""Products of bytes and of bfloat16 on Arm, 128 bits at a time."""

from __future__ import annotations

from intaglio.kernels.llvm.pieces import ATTRIBUTES, mask_of, over_pieces


def with_dots(pieces: str) -> str:
    """Functions over 4 lanes, and those over 16 made of them."""
    return pieces + over_pieces("dot4", 4, "i32") + over_pieces("dot4_small", 4, "i32")


BFDOT = f"""
declare <4 x float> @llvm.aarch64.neon.bfdot.v4f32.v8bf16(<4 x float>, <8 x bfloat>, <8 x bfloat>)
define linkonce_odr <4 x float> @piece_dot2(<4 x float> %sum, <4 x i32> %a, <4 x i32> %b) {ATTRIBUTES} {{
  %x = bitcast <4 x i32> %a to <8 x bfloat>
  %y = bitcast <4 x i32> %b to <8 x bfloat>
  %r = call <4 x float> @llvm.aarch64.neon.bfdot.v4f32.v8bf16(
    <4 x float> %sum, <8 x bfloat> %x, <8 x bfloat> %y)
  ret <4 x float> %r
}}
define linkonce_odr <8 x i32> @intaglio_narrow(<16 x float> %a) {ATTRIBUTES} {{
  %x = fptrunc <16 x float> %a to <16 x bfloat>
  %r = bitcast <16 x bfloat> %x to <8 x i32>
  ret <8 x i32> %r
}}
""" + over_pieces("dot2", 4, "float")

# Codes above 127 count as signed once 128 is taken off; 128 Σ factors, the same in all lanes, is added again.
SDOT = f"""
declare <4 x i32> @llvm.aarch64.neon.sdot.v4i32.v16i8(<4 x i32>, <16 x i8>, <16 x i8>)
define linkonce_odr <4 x i32> @piece_dot4_small(<4 x i32> %s, <4 x i32> %c, <4 x i32> %f) {ATTRIBUTES} {{
  %cb = bitcast <4 x i32> %c to <16 x i8>
  %fb = bitcast <4 x i32> %f to <16 x i8>
  %r = call <4 x i32> @llvm.aarch64.neon.sdot.v4i32.v16i8(<4 x i32> %s, <16 x i8> %cb, <16 x i8> %fb)
  ret <4 x i32> %r
}}
define linkonce_odr <4 x i32> @piece_dot4(<4 x i32> %s, <4 x i32> %c, <4 x i32> %f) {ATTRIBUTES} {{
  %signed = xor <4 x i32> %c, splat (i32 -2139062144)
  %half = call <4 x i32> @piece_dot4_small(
    <4 x i32> zeroinitializer, <4 x i32> splat (i32 1077952576), <4 x i32> %f)
  %shift = shl <4 x i32> %half, splat (i32 1)
  %start = add <4 x i32> %s, %shift
  %r = call <4 x i32> @piece_dot4_small(<4 x i32> %start, <4 x i32> %signed, <4 x i32> %f)
  ret <4 x i32> %r
}}
"""

USDOT = "declare <4 x i32> @llvm.aarch64.neon.usdot.v4i32.v16i8(<4 x i32>, <16 x i8>, <16 x i8>)\n" + "".join(
    f"""
define linkonce_odr <4 x i32> @piece_{name}(<4 x i32> %s, <4 x i32> %c, <4 x i32> %f) {ATTRIBUTES} {{
  %cb = bitcast <4 x i32> %c to <16 x i8>
  %fb = bitcast <4 x i32> %f to <16 x i8>
  %r = call <4 x i32> @llvm.aarch64.neon.usdot.v4i32.v16i8(<4 x i32> %s, <16 x i8> %cb, <16 x i8> %fb)
  ret <4 x i32> %r
}}
"""
    for name in ("dot4", "dot4_small")
)

# Two products of codes of at most 127 fit into 16 bits. Larger codes come in two parts, u & 127 and u >> 7.
SMULL = f"""
declare <8 x i16> @llvm.aarch64.neon.smull.v8i16(<8 x i8>, <8 x i8>)
declare <8 x i16> @llvm.aarch64.neon.addp.v8i16(<8 x i16>, <8 x i16>)
declare <4 x i32> @llvm.aarch64.neon.saddlp.v4i32.v8i16(<8 x i16>)
define linkonce_odr <4 x i32> @piece_dot4_small(<4 x i32> %s, <4 x i32> %c, <4 x i32> %f) {ATTRIBUTES} {{
  %cb = bitcast <4 x i32> %c to <16 x i8>
  %fb = bitcast <4 x i32> %f to <16 x i8>
  %c0 = shufflevector <16 x i8> %cb, <16 x i8> poison, {mask_of(range(8))}
  %c1 = shufflevector <16 x i8> %cb, <16 x i8> poison, {mask_of(range(8, 16))}
  %f0 = shufflevector <16 x i8> %fb, <16 x i8> poison, {mask_of(range(8))}
  %f1 = shufflevector <16 x i8> %fb, <16 x i8> poison, {mask_of(range(8, 16))}
  %p0 = call <8 x i16> @llvm.aarch64.neon.smull.v8i16(<8 x i8> %c0, <8 x i8> %f0)
  %p1 = call <8 x i16> @llvm.aarch64.neon.smull.v8i16(<8 x i8> %c1, <8 x i8> %f1)
  %pairs = call <8 x i16> @llvm.aarch64.neon.addp.v8i16(<8 x i16> %p0, <8 x i16> %p1)
  %sums = call <4 x i32> @llvm.aarch64.neon.saddlp.v4i32.v8i16(<8 x i16> %pairs)
  %r = add <4 x i32> %s, %sums
  ret <4 x i32> %r
}}
define linkonce_odr <4 x i32> @piece_dot4(<4 x i32> %s, <4 x i32> %c, <4 x i32> %f) {ATTRIBUTES} {{
  %low = and <4 x i32> %c, splat (i32 2139062143)
  %moved = lshr <4 x i32> %c, splat (i32 7)
  %high = and <4 x i32> %moved, splat (i32 16843009)
  %x = call <4 x i32> @piece_dot4_small(<4 x i32> zeroinitializer, <4 x i32> %high, <4 x i32> %f)
  %shifted = shl <4 x i32> %x, splat (i32 7)
  %start = add <4 x i32> %s, %shifted
  %r = call <4 x i32> @piece_dot4_small(<4 x i32> %start, <4 x i32> %low, <4 x i32> %f)
  ret <4 x i32> %r
}}
"""

MATRIX = f"""
declare <4 x i32> @llvm.aarch64.neon.usmmla.v4i32.v16i8(<4 x i32>, <16 x i8>, <16 x i8>)
define linkonce_odr <4 x i32> @piece_matrix(<4 x i32> %s, <4 x i32> %a, <4 x i32> %b) {ATTRIBUTES} {{
  %x = bitcast <4 x i32> %a to <16 x i8>
  %y = bitcast <4 x i32> %b to <16 x i8>
  %r = call <4 x i32> @llvm.aarch64.neon.usmmla.v4i32.v16i8(<4 x i32> %s, <16 x i8> %x, <16 x i8> %y)
  ret <4 x i32> %r
}}
""" + over_pieces("matrix", 4, "i32")
