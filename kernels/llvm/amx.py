"""AMX in LLVM's own language: a tile's number is part of the instruction, hence a function for each.

Tiles 0 and 1 hold sums, 2 and 3 weights, 4 tokens. `intaglio_tile_multiply_{n}` adds tokens (signed bytes) ×
weights (unsigned bytes) to sum n; `intaglio_tile_multiply_floats_{n}` the same for bfloat16.
"""

from __future__ import annotations

SUMS, WEIGHTS, TOKENS = (0, 1), (2, 3), 4
_INLINED = "alwaysinline nounwind"


def _function(name: str, parameters: str, call: str) -> str:
    return (
        f"define linkonce_odr void @{name}({parameters}) {_INLINED} {{\n  call void @{call}\n  ret void\n}}\n"
    )


def _load(tile: int) -> str:
    arguments = f"llvm.x86.tileloadd64(i8 {tile}, ptr %from, i64 %stride)"
    return _function(f"intaglio_tile_load_{tile}", "ptr %from, i64 %stride", arguments)


def _sum(index: int) -> str:
    operands = f"(i8 {SUMS[index]}, i8 {TOKENS}, i8 {WEIGHTS[index]})"
    tile = f"i8 {SUMS[index]}"
    store = f"llvm.x86.tilestored64({tile}, ptr %to, i64 %stride)"
    return (
        _function(f"intaglio_tile_zero_{index}", "", f"llvm.x86.tilezero({tile})")
        + _function(f"intaglio_tile_multiply_{index}", "", f"llvm.x86.tdpbsud{operands}")
        + _function(f"intaglio_tile_multiply_floats_{index}", "", f"llvm.x86.tdpbf16ps{operands}")
        + _function(f"intaglio_tile_store_{index}", "ptr %to, i64 %stride", store)
    )


TEXT = (
    """
declare void @llvm.x86.ldtilecfg(ptr)
declare void @llvm.x86.tilerelease()
declare void @llvm.x86.tilezero(i8 immarg)
declare void @llvm.x86.tileloadd64(i8 immarg, ptr, i64)
declare void @llvm.x86.tilestored64(i8 immarg, ptr, i64)
declare void @llvm.x86.tdpbsud(i8 immarg, i8 immarg, i8 immarg)
declare void @llvm.x86.tdpbf16ps(i8 immarg, i8 immarg, i8 immarg)
"""
    + _function("intaglio_tile_configure", "ptr %from", "llvm.x86.ldtilecfg(ptr %from)")
    + _function("intaglio_tile_release", "", "llvm.x86.tilerelease()")
    + "".join(_load(tile) for tile in (*WEIGHTS, TOKENS))
    + "".join(_sum(index) for index in range(len(SUMS)))
)
