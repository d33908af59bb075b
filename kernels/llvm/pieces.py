"""Functions of 16 lanes from functions of fewer."""

from __future__ import annotations

ATTRIBUTES = "alwaysinline nounwind memory(none)"


def over_pieces(name: str, lanes: int, sums: str, arguments: int = 3) -> str:
    """`intaglio_{name}` over 16 lanes by way of `piece_{name}` over `lanes`.

    The first argument and the result are of type `sums`, the others i32.
    """
    types = [sums] + ["i32"] * (arguments - 1)
    wide = ", ".join(f"<16 x {kind}> %a{index}" for index, kind in enumerate(types))
    lines = [f"define linkonce_odr <16 x {sums}> @intaglio_{name}({wide}) {ATTRIBUTES} {{"]
    parts = range(16 // lanes)
    for part in parts:
        mask = mask_of(range(part * lanes, part * lanes + lanes))
        for index, kind in enumerate(types):
            source = f"<16 x {kind}> %a{index}, <16 x {kind}> poison"
            lines.append(f"  %a{index}.{part} = shufflevector {source}, {mask}")
        narrow = ", ".join(f"<{lanes} x {kind}> %a{index}.{part}" for index, kind in enumerate(types))
        lines.append(f"  %r{lanes}.{part} = call <{lanes} x {sums}> @piece_{name}({narrow})")
    while lanes < 16:
        for part in range(16 // lanes // 2):
            left, right = (f"<{lanes} x {sums}> %r{lanes}.{2 * part + side}" for side in (0, 1))
            mask = mask_of(range(2 * lanes))
            lines.append(f"  %r{2 * lanes}.{part} = shufflevector {left}, {right}, {mask}")
        lanes *= 2
    return "\n".join([*lines, f"  ret <16 x {sums}> %r16.0", "}", ""])


def mask_of(lanes: range) -> str:
    """The mask of a shufflevector."""
    return f"<{len(lanes)} x i32> <{', '.join(f'i32 {lane}' for lane in lanes)}>"
