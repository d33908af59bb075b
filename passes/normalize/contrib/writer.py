"""What the lowerings of `com.microsoft` operators share: reading a node, writing ahead of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.compiler.ir.builder import GraphBuilder
from intaglio.passes.rewriting import input_at, take_over

DOMAIN = "com.microsoft"
HEADS_FIRST = [0, 2, 1, 3]
Attribute = int | float | str | Sequence[int]


class NotLowered(Exception):
    """Why a node has to stay; raised before anything is written."""


class Writer:
    """Reads `node` and writes what takes its place."""

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        self.node = node
        self._builder = GraphBuilder.extend(graph, before=node)

    def input(self, index: int) -> ir.Value | None:
        """An optional input."""
        return input_at(self.node, index)

    def required(self, index: int) -> ir.Value:
        """An input that the operator cannot do without."""
        value = self.input(index)
        if value is None:
            raise NotLowered(f"{self.node.op_type} lacks its input {index}")
        return value

    def without(self, *indices: int) -> None:
        """Decline if one of these inputs is given."""
        given = [index for index in indices if self.input(index) is not None]
        if given:
            raise NotLowered(f"{self.node.op_type} has input {given[0]}")

    def unused(self, *indices: int) -> None:
        """Decline if one of these outputs is read."""
        outputs = [self.node.outputs[index] for index in indices if index < len(self.node.outputs)]
        read = [one for one in outputs if one.name and (one.uses() or one.is_graph_output())]
        if read:
            raise NotLowered(f"{self.node.op_type}: its output {read[0].name} is read")

    def plain(self, **attributes: int | float | str) -> None:
        """Decline if one of these attributes has another value."""
        for name, expected in attributes.items():
            attribute = self.node.attributes.get(name)
            if attribute is not None and attribute.value != expected:
                raise NotLowered(f"{self.node.op_type} has {name}={attribute.value}")

    def integer(self, name: str, default: int = 0) -> int:
        """An integer attribute."""
        return int(self.node.attributes.get_int(name, default))

    def real(self, name: str, default: float) -> float:
        """A float attribute."""
        return float(self.node.attributes.get_float(name, default))

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Attribute] | None = None,
    ) -> ir.Value:
        """A node of one output."""
        name = self.node.outputs[0].name or self.node.op_type
        return self._builder.node(op_type, inputs, attributes, name=f"{name}.{op_type.lower()}")

    def ops(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Attribute],
        outputs: int,
    ) -> tuple[ir.Value, ...]:
        """A node of several outputs."""
        name = f"{self.node.outputs[0].name}.{op_type.lower()}"
        return self._builder.nodes(op_type, inputs, attributes, outputs=outputs, name=name)

    def integers(self, numbers: Sequence[int]) -> ir.Value:
        """An int64 constant of one axis."""
        return self._builder.integers(numbers)

    def constant(self, array: NDArray[np.generic]) -> ir.Value:
        """A small constant."""
        return self._builder.constant(array)

    def number(self, number: float, like: ir.Value) -> ir.Value:
        """A number of the type of `like`."""
        dtype = ir.DataType.FLOAT if like.dtype is None else like.dtype
        return self._builder.constant(np.array(number, dtype.numpy()))

    def split_heads(self, x: ir.Value, heads: int) -> ir.Value:
        """`[batch, sequence, heads · head_dim]` → `[batch, heads, sequence, head_dim]`."""
        split = self.op("Reshape", [x, self.integers([0, 0, heads, -1])])
        return self.op("Transpose", [split], {"perm": HEADS_FIRST})

    def join_heads(self, x: ir.Value) -> ir.Value:
        """`[batch, heads, sequence, head_dim]` → `[batch, sequence, heads · head_dim]`."""
        turned = self.op("Transpose", [x], {"perm": HEADS_FIRST})
        return self.op("Reshape", [turned, self.integers([0, 0, -1])])

    def finish(self, *outputs: ir.Value | None) -> None:
        """Let `outputs` stand for those of the node."""
        for old, new in zip(self.node.outputs, outputs, strict=False):
            if new is not None and (old.uses() or old.is_graph_output()):
                take_over(old, new)
