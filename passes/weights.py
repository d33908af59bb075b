"""The stored weight of a linear layer, `[N, K]`, read a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.compiler.ir.match import DequantizedWeight, is_dequantized_weight

Float32 = NDArray[np.float32]
ROW_BLOCK = 1 << 20  # weights in floating point at any one time


@dataclass(frozen=True)
class Weight:
    """One weight `[N, K]` and the initialisers it comes from."""

    value: ir.Value  # float32, what the linear layer reads
    stored: DequantizedWeight

    @property
    def tensors(self) -> tuple[ir.Value, ...]:
        """The initialisers, each with N rows: the float weight; or codes, scale and zero point or minimum."""
        stored = self.stored
        return tuple(filter(None, (stored.codes, stored.scale, stored.zero_point, stored.minimum)))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns: outputs and inputs of the layer."""
        return self.stored.shape

    @property
    def block(self) -> int:
        """How many weights of a row share a scale; 0 for floating point."""
        return self.stored.block_size

    @property
    def quantized(self) -> bool:
        """Whether the weight is stored as integer codes."""
        return self.block > 0

    @property
    def format(self) -> str:
        """How the weight is stored; weights of equal format can be joined along N."""
        dtypes = ", ".join(tensor_of(one).dtype.name.lower() for one in self.tensors)
        return f"{self.stored.kind} {dtypes}" + (f" in blocks of {self.block}" if self.block else "")

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """The nodes between the initialisers and `value`, in order."""
        return tuple(dict.fromkeys(_nodes_before(self.value)))

    def rows(self) -> Iterator[Float32]:
        """The dequantised weight, a block of rows at a time, so that no large float array ever exists."""
        arrays = [tensor_of(one).numpy() for one in self.tensors]
        rows, columns = self.shape
        # Even, so that 4-bit codes of whole blocks fill bytes.
        step = max(2, ROW_BLOCK // columns // 2 * 2)
        for start in range(0, rows, step):
            yield self._dequantize([one[start : start + step].astype(np.float32) for one in arrays])

    def numpy(self) -> Float32:
        """The whole dequantised weight."""
        return np.concatenate(list(self.rows()))

    def _dequantize(self, arrays: list[Float32]) -> Float32:
        if not self.quantized:
            return arrays[0]
        codes, scale = arrays[0].reshape(len(arrays[0]), -1, self.block), arrays[1][..., None]
        if self.stored.zero_point is not None:
            codes = codes - arrays[2][..., None]
        values = codes * scale
        if self.stored.minimum is not None:
            values = values + arrays[2][..., None]
        return values.reshape(arrays[0].shape)


def read_weight(value: ir.Value | None) -> Weight | None:
    """The stored weight that `value` is, dequantised, not transposed; `None` where it is something else."""
    stored = is_dequantized_weight(value)
    if value is None or stored is None or stored.transposed:
        return None
    return Weight(value, stored)


def tensor_of(value: ir.Value) -> ir.TensorProtocol:
    """The tensor of an initialiser."""
    tensor = value.const_value
    assert tensor is not None, f"{value.name} has no value"
    return tensor


def _nodes_before(value: ir.Value) -> Iterator[ir.Node]:
    node = value.producer()
    if node is None:
        return
    for one in node.inputs:
        if one is not None:
            yield from _nodes_before(one)
    yield node
