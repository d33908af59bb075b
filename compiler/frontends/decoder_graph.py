"""The parts that llama-shaped decoders are built of, in the form called "as traced" in docs/architecture.md.

Whole sequences, no cache, standard ops. Weights are float32 values `[out, in]`, whatever they were made
from, so that every front end can build with these parts. `x` is always float32 `[batch, sequence, hidden]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.compiler.frontends.traced import DecoderArchitecture
from intaglio.compiler.ir.builder import Attribute, Dimension, GraphBuilder

HEADS_FIRST = [0, 2, 1, 3]  # [batch, sequence, heads, head_dim] ↔ [batch, heads, sequence, head_dim]


@dataclass(frozen=True)
class Rotation:
    """What the rotary embeddings of all layers share."""

    cosine: ir.Value  # [context, head_dim / 2]
    sine: ir.Value
    positions: ir.Value  # int64 [batch, sequence]


@dataclass(frozen=True)
class DecoderGraph:
    """Appends parts of a decoder to `builder`; each is named by its caller."""

    builder: GraphBuilder
    sizes: DecoderArchitecture
    epsilon: float  # of the RMS norms

    def tokens(self) -> ir.Value:
        """The graph's input, int64 `[batch, sequence]`."""
        return self.builder.input("input_ids", ir.DataType.INT64, ["batch", "sequence"])

    def embedding(self, table: ir.Value, tokens: ir.Value, name: str) -> ir.Value:
        """Rows of `table`, `[vocabulary, hidden]`."""
        return self._node("Gather", [table, tokens], name, [self.sizes.hidden])

    def positions(self, tokens: ir.Value) -> ir.Value:
        """0, 1, … for every sequence of the batch, int64 `[batch, sequence]`."""
        node, constant, whole = self.builder.node, self.builder.integer, ir.DataType.INT64
        shape = node("Shape", [tokens], name="tokens.shape", dtype=whole, shape=[2])
        length = node("Gather", [shape, constant(1)], name="tokens.sequence", dtype=whole, shape=[])
        steps = [constant(0), length, constant(1)]
        row = node("Range", steps, name="positions.row", dtype=whole, shape=["sequence"])
        return node("Expand", [row, shape], name="position_ids", dtype=whole, shape=["batch", "sequence"])

    def norm(self, x: ir.Value, weight: ir.Value, name: str) -> ir.Value:
        """Root-mean-square normalisation over the last axis."""
        attributes = {"epsilon": self.epsilon, "axis": -1}
        return self._node("RMSNormalization", [x, weight], name, [self.sizes.hidden], attributes)

    def linear(self, x: ir.Value, weight: ir.Value, name: str) -> ir.Value:
        """`x · weightᵀ`, `[batch, sequence, out]`."""
        rows, columns = dimensions(weight)
        turned = self._shaped("Transpose", [weight], f"{name}.transposed", [columns, rows], {"perm": [1, 0]})
        return self._node("MatMul", [x, turned], name, [rows])

    def heads(self, flat: ir.Value, count: int, name: str) -> ir.Value:
        """`[batch, sequence, count · head_dim]` → `[batch, count, sequence, head_dim]`."""
        size = self.sizes.head_dim
        shape = self.builder.integers([0, 0, count, size])
        split = self._node("Reshape", [flat, shape], f"{name}_split", [count, size])
        turned: list[Dimension] = ["batch", count, "sequence", size]
        return self._shaped("Transpose", [split], f"{name}_heads", turned, {"perm": HEADS_FIRST})

    def rotated(self, x: ir.Value, rotation: Rotation, name: str) -> ir.Value:
        """Heads turned by their positions; the first half of a head is paired with the second."""
        inputs = [x, rotation.cosine, rotation.sine, rotation.positions]
        return self._shaped("RotaryEmbedding", inputs, name, dimensions(x))

    def attention(self, q: ir.Value, k: ir.Value, v: ir.Value, name: str) -> ir.Value:
        """Causal attention over heads, joined again: `[batch, sequence, heads · head_dim]`."""
        heads, size = self.sizes.heads, self.sizes.head_dim
        mixed = self._shaped("Attention", [q, k, v], f"{name}.attention", dimensions(q), {"is_causal": 1})
        turned = self._node("Transpose", [mixed], f"{name}.turned", [heads, size], {"perm": HEADS_FIRST})
        shape = self.builder.integers([0, 0, heads * size])
        return self._node("Reshape", [turned, shape], f"{name}.joined", [heads * size])

    def gated(self, gate: ir.Value, up: ir.Value, name: str) -> ir.Value:
        """`gate · sigmoid(gate) · up`, `[batch, sequence, feed_forward]`."""
        width: list[Dimension] = [self.sizes.feed_forward]
        sigmoid = self._node("Sigmoid", [gate], f"{name}.sigmoid", width)
        activated = self._node("Mul", [gate, sigmoid], f"{name}.silu", width)
        return self._node("Mul", [activated, up], f"{name}.gated", width)

    def sum(self, x: ir.Value, update: ir.Value, name: str) -> ir.Value:
        """The residual stream after `update`."""
        return self._node("Add", [x, update], name, [self.sizes.hidden])

    def _node(
        self,
        op_type: str,
        inputs: list[ir.Value],
        name: str,
        tail: list[Dimension],
        attributes: Mapping[str, Attribute] | None = None,
    ) -> ir.Value:
        """A node whose output is float32 `[batch, sequence, *tail]`."""
        return self._shaped(op_type, inputs, name, ["batch", "sequence", *tail], attributes)

    def _shaped(
        self,
        op_type: str,
        inputs: list[ir.Value],
        name: str,
        shape: list[Dimension],
        attributes: Mapping[str, Attribute] | None = None,
    ) -> ir.Value:
        return self.builder.node(op_type, inputs, attributes, name=name, dtype=ir.DataType.FLOAT, shape=shape)


def dimensions(value: ir.Value) -> list[Dimension]:
    """Sizes and names of sizes of a value that has a shape."""
    assert value.shape is not None, "every traced value has a shape"
    return [one if isinstance(one, int) else one.value for one in value.shape]
