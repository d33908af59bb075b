"""Rotary position embedding: the tables, and the order of rows that llama.cpp's converter changed."""

from __future__ import annotations

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


def rotary_tables(
    context: int, head_dim: int, base: float, scale: float, factors: ir.TensorProtocol | None
) -> tuple[ir.LazyTensor, ir.LazyTensor]:
    """cos and sin, `[context, head_dim / 2]`, of `position · base^(−2i / head_dim) / scale / factors[i]`.

    Computed in float64 when asked for. `factors`, float32 `[head_dim / 2]`, stretches single frequencies
    (Llama 3.1).
    """

    def angles() -> NDArray[np.float64]:
        frequencies = base ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim) / scale
        stretched = frequencies if factors is None else frequencies / factors.numpy().astype(np.float64)
        return np.outer(np.arange(context, dtype=np.float64), stretched)

    def cosine() -> ir.Tensor[Array]:
        return ir.Tensor(np.cos(angles()).astype(np.float32))

    def sine() -> ir.Tensor[Array]:
        return ir.Tensor(np.sin(angles()).astype(np.float32))

    shape = [context, head_dim // 2]
    return (
        ir.LazyTensor(cosine, ir.DataType.FLOAT, ir.Shape(shape)),
        ir.LazyTensor(sine, ir.DataType.FLOAT, ir.Shape(shape)),
    )
