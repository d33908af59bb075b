"""How a rewrite writes a quantised linear layer: `MatMul(x, Transpose(DequantizeLinear(…)))`."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.passes.rewriting import insert


@dataclass(frozen=True)
class Blocks:
    """A weight `[N, K]` as codes with a scale for each block of `size` along K, and maybe a zero point."""

    codes: ir.Value
    scale: ir.Value
    zero_point: ir.Value | None
    size: int


def dequantized(before: ir.Node, blocks: Blocks, name: str) -> ir.Value:
    """Float32 `[N, K]`, computed ahead of `before`."""
    inputs = [blocks.codes, blocks.scale, *([blocks.zero_point] if blocks.zero_point else [])]
    attributes = {"axis": 1, "block_size": blocks.size}
    made = insert(before, "DequantizeLinear", inputs, attributes, name=name).outputs[0]
    made.type, made.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(blocks.codes.shape or ())
    return made


def turned(before: ir.Node, matrix: ir.Value, name: str) -> ir.Value:
    """`[K, N]` of a matrix `[N, K]`."""
    made = insert(before, "Transpose", [matrix], {"perm": [1, 0]}, name=name).outputs[0]
    made.type, made.shape = matrix.type, ir.Shape(reversed(matrix.shape or ()))
    return made


class Store:
    """Initialisers that a rewrite adds to a graph; what is made twice from one source is kept once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._made: dict[tuple[Hashable, ...], ir.Value] = {}

    def keep(self, source: ir.Value, suffix: str, tensor: ir.TensorProtocol, *facts: Hashable) -> ir.Value:
        """`tensor`, which is `source` as rewritten by `facts`, named after it with a `suffix`."""
        key = (source, suffix, tensor.dtype, tuple(tensor.shape.numpy()), *facts)
        if key not in self._made:
            self._made[key] = self._added(f"{source.name}.{suffix}", tensor)
        return self._made[key]

    def _added(self, wanted: str, tensor: ir.TensorProtocol) -> ir.Value:
        name, count = wanted, 1
        while name in self._graph.initializers:
            count += 1
            name = f"{wanted}.{count}"
        tensor.name = name
        shape = ir.Shape(tensor.shape.numpy())
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
        self._graph.register_initializer(value)
        return value


def stored_tensor(node: ir.Node, index: int) -> ir.TensorProtocol:
    """The tensor of an input that is known to be an initialiser."""
    tensor = stored_value(node, index).const_value
    assert tensor is not None, "only nodes whose weights are stored are rewritten"
    return tensor


def stored_value(node: ir.Node, index: int) -> ir.Value:
    """An input that is known to be there."""
    value = node.inputs[index]
    assert value is not None, "only nodes whose weights are stored are rewritten"
    return value
