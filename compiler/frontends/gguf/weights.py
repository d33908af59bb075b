"""Tensors of a GGUF file as lazy initialisers, and the ops that make float32 weights of them.

Nothing is decoded while tracing: an initialiser reads its part of the mapped file when it is asked for its
content, and keeps nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.compiler.frontends.gguf.block_format import BlockFormat, Blocks, Decode
from intaglio.compiler.frontends.gguf.blocks import BLOCK_FORMATS
from intaglio.compiler.frontends.gguf.reader import GgufFile
from intaglio.compiler.ir.builder import GraphBuilder
from intaglio.compiler.ir.functions import DOMAIN

Array: TypeAlias = NDArray[np.generic]
FLOAT = ir.DataType.FLOAT
PLAIN_FORMATS: Mapping[str, tuple[ir.DataType, np.dtype[np.generic]]] = {
    "F32": (ir.DataType.FLOAT, np.dtype("<f4")),
    "F16": (ir.DataType.FLOAT16, np.dtype("<f2")),
    "BF16": (ir.DataType.BFLOAT16, np.dtype(ml_dtypes.bfloat16)),
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the file, its rows in the model's order."""

    file: GgufFile
    name: str
    order: NDArray[np.int64] | None = None  # row i of the model is row order[i] of the file

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in numbers, `[out, in]` for a matrix."""
        return self.file.tensors[self.name].shape

    @property
    def kind(self) -> str:
        """The tensor type's name, e.g. `Q4_0`."""
        return self.file.tensors[self.name].kind.name

    def blocks(self) -> Blocks:
        """Raw blocks uint8 `[rows, blocks, bytes]`: a view of the file, or a copy if rows are reordered."""
        blocks = self.file.blocks(self.name)
        return blocks if self.order is None else blocks[self.order]


@dataclass(frozen=True)
class StoredWeight:
    """The initialisers of one weight; `float32` may be asked several times to use them in several places."""

    parts: Mapping[str, ir.Value]  # "plain", or "codes", "scale" and perhaps "minimum"
    shape: tuple[int, ...]
    group: int | None  # numbers that share a scale; None where the weight is plain

    def float32(self, builder: GraphBuilder, name: str) -> ir.Value:
        """Append what dequantises the weight; the value is called `name` unless the file holds float32."""
        if self.group is None:
            return _widened(builder, self.parts["plain"], name)
        attributes = {"block_size": self.group}
        if "minimum" in self.parts:
            inputs = [self.parts["codes"], self.parts["scale"], self.parts["minimum"]]
            return builder.node(
                "DequantizeAffine",
                inputs,
                attributes,
                domain=DOMAIN,
                name=name,
                dtype=FLOAT,
                shape=self.shape,
            )
        scale = _widened(builder, self.parts["scale"], f"{name}.scale.float32")
        inputs = [self.parts["codes"], scale]
        return builder.node(
            "DequantizeLinear", inputs, {"axis": 1, **attributes}, name=name, dtype=FLOAT, shape=self.shape
        )


def store(builder: GraphBuilder, tensor: StoredTensor, name: str) -> StoredWeight:
    """Make the initialisers of `tensor`: `name`, or `name.codes`, `name.scale`, `name.minimum`."""
    if tensor.kind in PLAIN_FORMATS:
        plain = builder.initializer(name, plain_tensor(tensor))
        return StoredWeight({"plain": plain}, tensor.shape, None)
    layout = BLOCK_FORMATS[tensor.kind]
    parts = {
        "codes": _codes(tensor, layout),
        "scale": _per_group(tensor, layout, layout.scale),
    }
    if layout.minimum is not None:
        parts["minimum"] = _per_group(tensor, layout, layout.minimum)
    values = {part: builder.initializer(f"{name}.{part}", lazy) for part, lazy in parts.items()}
    return StoredWeight(values, tensor.shape, layout.group)


def plain_tensor(tensor: StoredTensor) -> ir.LazyTensor:
    """An F32, F16 or BF16 tensor as it is stored."""
    dtype, stored = PLAIN_FORMATS[tensor.kind]

    def read() -> ir.Tensor[Array]:
        return ir.Tensor(tensor.blocks().reshape(-1).view(stored).reshape(tensor.shape), dtype)

    return ir.LazyTensor(read, dtype, ir.Shape(tensor.shape))


def _widened(builder: GraphBuilder, value: ir.Value, name: str) -> ir.Value:
    if value.dtype == FLOAT:
        return value
    assert value.shape is not None, "initialisers have shapes"
    return builder.node(
        "Cast", [value], {"to": int(FLOAT)}, name=name, dtype=FLOAT, shape=value.shape.numpy()
    )


def _codes(tensor: StoredTensor, layout: BlockFormat) -> ir.LazyTensor:
    dtype = layout.code_type

    def read() -> ir.Tensor[Array] | ir.PackedTensor[Array]:
        codes = layout.codes(tensor.blocks())
        if dtype.bitwidth == 4:
            return ir.PackedTensor(codes.reshape(-1), dtype, shape=tensor.shape)
        return ir.Tensor(codes, dtype)

    return ir.LazyTensor(read, dtype, ir.Shape(tensor.shape))


def _per_group(tensor: StoredTensor, layout: BlockFormat, decode: Decode) -> ir.LazyTensor:
    rows, columns = tensor.shape

    def read() -> ir.Tensor[Array]:
        return ir.Tensor(decode(tensor.blocks()), layout.scale_type)

    return ir.LazyTensor(read, layout.scale_type, ir.Shape([rows, columns // layout.group]))
