"""Prefill for families whose products want another shape than one word of four columns at a time.

`matrix_matrix.py` asks `tile_writer`; where it gets none, it multiplies word by word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from intaglio.kernels.instructions import ByteTiles, Instructions
from intaglio.kernels.linear.tiles.amx import AmxWriter
from intaglio.kernels.linear.tiles.pairs import PairWriter
from intaglio.kernels.linear.tiles.panel import PanelWriter
from intaglio.kernels.linear.tiles.usmmla import UsmmlaWriter
from intaglio.kernels.tir import KernelFrame

if TYPE_CHECKING:
    from intaglio.kernels.linear.matrix_matrix import QuantizedMatrixMatrix


def tile_writer(
    kernel: QuantizedMatrixMatrix, instructions: Instructions, frame: KernelFrame
) -> PanelWriter | None:
    """The writer of a family's own shape for `kernel`, if there is one."""
    width, weight = kernel.activation_group, kernel.weight
    if instructions.byte_tiles is ByteTiles.AMX:
        return AmxWriter(kernel, frame)
    if instructions.byte_tiles is ByteTiles.USMMLA and width % 8 == 0:
        return UsmmlaWriter(kernel, frame)
    if instructions.byte_dots.in_pairs and weight.largest_code < 128 // 2:
        return PairWriter(kernel, frame, 6 if instructions.wide else 2)
    return None
