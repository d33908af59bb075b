"""Products of bytes and of bfloat16 on x86."""

from __future__ import annotations

from intaglio.kernels.llvm.pieces import ATTRIBUTES, over_pieces


def pmaddubsw(bits: int) -> str:
    """AVX2 and AVX-512 BW: `bits` is 256 or 512."""
    # Even and odd bytes as 16 bits are exact for every byte. Pairs of products of bytes saturate beyond
    # 32767, which codes of at most 127 cannot reach: 2 · 127 · 128 = 32512.
    lanes, halves, full = bits // 32, bits // 16, bits // 8
    ubsw = "llvm.x86.avx512.pmaddubs.w.512" if bits == 512 else "llvm.x86.avx2.pmadd.ub.sw"
    wd = "llvm.x86.avx512.pmaddw.d.512" if bits == 512 else "llvm.x86.avx2.pmadd.wd"
    whole, half, byte = f"<{lanes} x i32>", f"<{halves} x i16>", f"<{full} x i8>"
    text = f"""
declare {half} @{ubsw}({byte}, {byte})
declare {whole} @{wd}({half}, {half})
define linkonce_odr {whole} @piece_halves({whole} %s, {whole} %c, {whole} %e, {whole} %o)
    {ATTRIBUTES} {{
  %ce = and {whole} %c, splat (i32 16711935)
  %even = bitcast {whole} %ce to {half}
  %ch = bitcast {whole} %c to {half}
  %odd = lshr {half} %ch, splat (i16 8)
  %eh = bitcast {whole} %e to {half}
  %oh = bitcast {whole} %o to {half}
  %x = call {whole} @{wd}({half} %even, {half} %eh)
  %y = call {whole} @{wd}({half} %odd, {half} %oh)
  %sx = add {whole} %s, %x
  %r = add {whole} %sx, %y
  ret {whole} %r
}}
define linkonce_odr {whole} @piece_dot4({whole} %s, {whole} %c, {whole} %f) {ATTRIBUTES} {{
  %fh = bitcast {whole} %f to {half}
  %fl = shl {half} %fh, splat (i16 8)
  %feven = ashr {half} %fl, splat (i16 8)
  %fodd = ashr {half} %fh, splat (i16 8)
  %fe = bitcast {half} %feven to {whole}
  %fo = bitcast {half} %fodd to {whole}
  %r = call {whole} @piece_halves({whole} %s, {whole} %c, {whole} %fe, {whole} %fo)
  ret {whole} %r
}}
define linkonce_odr i32 @intaglio_opaque(i32 %n) {ATTRIBUTES} {{
  %r = call i32 asm "", "=r,0"(i32 %n)
  ret i32 %r
}}
define linkonce_odr {whole} @piece_pairs({whole} %p, {whole} %c, {whole} %f) {ATTRIBUTES} {{
  %cb = bitcast {whole} %c to {byte}
  %fb = bitcast {whole} %f to {byte}
  %x = call {half} @{ubsw}({byte} %cb, {byte} %fb)
  %ph = bitcast {whole} %p to {half}
  %sum = add {half} %ph, %x
  %r = bitcast {half} %sum to {whole}
  ret {whole} %r
}}
define linkonce_odr {whole} @piece_widen({whole} %s, {whole} %p) {ATTRIBUTES} {{
  %ph = bitcast {whole} %p to {half}
  %x = call {whole} @{wd}({half} %ph, {half} splat (i16 1))
  %r = add {whole} %s, %x
  ret {whole} %r
}}
define linkonce_odr {whole} @piece_dot4_small({whole} %s, {whole} %c, {whole} %f) {ATTRIBUTES} {{
  %p = call {whole} @piece_pairs({whole} zeroinitializer, {whole} %c, {whole} %f)
  %r = call {whole} @piece_widen({whole} %s, {whole} %p)
  ret {whole} %r
}}
"""
    names = {"dot4": 3, "dot4_small": 3, "halves": 4, "pairs": 3, "widen": 2}
    return text + "".join(over_pieces(name, lanes, "i32", count) for name, count in names.items())


def vpdpbusd(bits: int) -> str:
    """AVX-VNNI and AVX-512 VNNI: `bits` is 256 or 512."""
    # LLVM 22 takes bytes where older ones took 32-bit lanes.
    whole, byte, name = f"<{bits // 32} x i32>", f"<{bits // 8} x i8>", f"llvm.x86.avx512.vpdpbusd.{bits}"
    pieces = "".join(
        f"""
define linkonce_odr {whole} @piece_{dot}({whole} %s, {whole} %c, {whole} %f) {ATTRIBUTES} {{
  %cb = bitcast {whole} %c to {byte}
  %fb = bitcast {whole} %f to {byte}
  %r = call {whole} @{name}({whole} %s, {byte} %cb, {byte} %fb)
  ret {whole} %r
}}
{over_pieces(dot, bits // 32, "i32")}"""
        for dot in ("dot4", "dot4_small")
    )
    return f"declare {whole} @{name}({whole}, {byte}, {byte})\n{pieces}"


VDPBF16PS = f"""
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define linkonce_odr <16 x float> @intaglio_dot2(<16 x float> %s, <16 x i32> %a, <16 x i32> %b)
    {ATTRIBUTES} {{
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %y = bitcast <16 x i32> %b to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(
    <16 x float> %s, <32 x bfloat> %x, <32 x bfloat> %y)
  ret <16 x float> %r
}}
define linkonce_odr <8 x i32> @intaglio_narrow(<16 x float> %a) {ATTRIBUTES} {{
  %x = fptrunc <16 x float> %a to <16 x bfloat>
  %r = bitcast <16 x bfloat> %x to <8 x i32>
  ret <8 x i32> %r
}}
"""
