"""Rotary position embedding: schemes, tables, and the order of rows that llama.cpp's converter changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.generic]


def half_split_order(heads: int, head_dim: int) -> NDArray[np.int64]:
    """Which row of the file is row i of the model, int64 `[heads · head_dim]`.

    The file keeps a rotated pair in neighbouring rows of q and k; the model has them head_dim / 2 apart.
    """
    pairs = np.arange(heads * head_dim).reshape(heads, head_dim // 2, 2)
    return pairs.swapaxes(1, 2).reshape(-1)


@dataclass(frozen=True)
class RotaryScheme:
    """Which angle a pair of numbers in a head is turned by."""

    dimensions: int  # of a head that are turned: its first ones
    base: float
    scale: float = 1.0  # positions are divided by this
    factors: str | None = None  # name of a tensor `[dimensions / 2]` by which single frequencies are divided
    magnitude: float = 1.0  # turned numbers grow by this


def rotary_tables(
    context: int, scheme: RotaryScheme, factors: ir.TensorProtocol | None
) -> tuple[ir.LazyTensor, ir.LazyTensor]:
    """cos and sin, `[context, dimensions / 2]`, of `position · base^(−2i / dimensions) / scale / factors[i]`.

    Both times the magnitude, computed in float64 when asked for. `factors` is what `scheme.factors` names.
    """

    def angles() -> NDArray[np.float64]:
        exponents = np.arange(0, scheme.dimensions, 2, dtype=np.float64) / scheme.dimensions
        frequencies = scheme.base**-exponents / scheme.scale
        stretched = frequencies if factors is None else frequencies / factors.numpy().astype(np.float64)
        return np.outer(np.arange(context, dtype=np.float64), stretched)

    def cosine() -> ir.Tensor[Array]:
        return ir.Tensor((np.cos(angles()) * scheme.magnitude).astype(np.float32))

    def sine() -> ir.Tensor[Array]:
        return ir.Tensor((np.sin(angles()) * scheme.magnitude).astype(np.float32))

    shape = [context, scheme.dimensions // 2]
    return (
        ir.LazyTensor(cosine, ir.DataType.FLOAT, ir.Shape(shape)),
        ir.LazyTensor(sine, ir.DataType.FLOAT, ir.Shape(shape)),
    )
