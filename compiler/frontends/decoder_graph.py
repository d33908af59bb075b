"""The parts that llama-shaped decoders are built of, in the form called "as traced" in docs/architecture.md.

Whole sequences, no cache, standard ops. Weights are float32 values `[out, in]`, whatever they were made
from, so that every front end can build with these parts. `x` is always float32 `[batch, sequence, hidden]`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from intaglio.compiler.frontends.traced import DecoderArchitecture
from intaglio.compiler.ir.builder import Attribute, Dimension, GraphBuilder

Activation: TypeAlias = Literal["silu", "gelu"]  # the latter by tanh
HEADS_FIRST = [0, 2, 1, 3]  # [batch, sequence, heads, head_dim] ↔ [batch, heads, sequence, head_dim]


@dataclass(frozen=True)
class Rotation:
    """What the rotary embeddings of all layers of a kind share."""

    cosine: ir.Value  # [context, d / 2], the first d numbers of a head being turned
    sine: ir.Value
    positions: ir.Value  # int64 [batch, sequence]


@dataclass(frozen=True)
class Attending:
    """How queries look at keys."""

    scale: float  # scores are multiplied by this,
    cap: float | None = None  # then soft-capped by this
    window: int | None = None  # latest tokens that are seen, the own one included


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

    def scaled(self, x: ir.Value, factor: float, name: str) -> ir.Value:
        """`x · factor`."""
        return self._shaped("Mul", [x, self._scalar(factor)], name, dimensions(x))

    def norm(self, x: ir.Value, weight: ir.Value, name: str) -> ir.Value:
        """Root-mean-square normalisation over the last axis."""
        attributes = {"epsilon": self.epsilon, "axis": -1}
        return self._shaped("RMSNormalization", [x, weight], name, dimensions(x), attributes)

    def linear(self, x: ir.Value, weight: ir.Value, name: str, bias: ir.Value | None = None) -> ir.Value:
        """`x · weightᵀ`, `[batch, sequence, out]`, plus `bias` `[out]`."""
        rows, columns = dimensions(weight)
        turned = self._shaped("Transpose", [weight], f"{name}.transposed", [columns, rows], {"perm": [1, 0]})
        product = self._node("MatMul", [x, turned], name, [rows])
        return product if bias is None else self._node("Add", [product, bias], f"{name}.biased", [rows])

    def parts(self, x: ir.Value, sizes: Sequence[int], name: str) -> tuple[ir.Value, ...]:
        """`x` cut along its last axis into parts of `sizes`."""
        inputs = [x, self.builder.integers(sizes)]
        parts = self.builder.nodes("Split", inputs, {"axis": -1}, outputs=len(sizes), name=f"{name}.split")
        for part, size in zip(parts, sizes, strict=True):
            part.dtype, part.shape = ir.DataType.FLOAT, ir.Shape(["batch", "sequence", size])
        return parts

    def heads(self, flat: ir.Value, count: int, name: str, norm: ir.Value | None = None) -> ir.Value:
        """`[batch, sequence, count · head_dim]` → `[batch, count, sequence, head_dim]`.

        Each head is normalised with the weight `norm` `[head_dim]`, if that is given.
        """
        size = self.sizes.head_dim
        shape = self.builder.integers([0, 0, count, size])
        split = self._node("Reshape", [flat, shape], f"{name}_split", [count, size])
        normed = split if norm is None else self.norm(split, norm, f"{name}_norm")
        turned: list[Dimension] = ["batch", count, "sequence", size]
        return self._shaped("Transpose", [normed], f"{name}_heads", turned, {"perm": HEADS_FIRST})

    def rotated(self, x: ir.Value, rotation: Rotation, name: str) -> ir.Value:
        """Heads turned by their positions; the first half of what turns is paired with the second."""
        inputs = [x, rotation.cosine, rotation.sine, rotation.positions]
        turning = 2 * ir.Shape(dimensions(rotation.cosine)).numpy()[1]
        attributes = {"rotary_embedding_dim": turning} if turning < self.sizes.head_dim else {}
        return self._shaped("RotaryEmbedding", inputs, name, dimensions(x), attributes)

    def attention(self, q: ir.Value, k: ir.Value, v: ir.Value, how: Attending, name: str) -> ir.Value:
        """Causal attention over heads, joined again: `[batch, sequence, heads · head_dim]`."""
        heads, size = self.sizes.heads, self.sizes.head_dim
        attributes = _attention_attributes(how, size)
        mixed = self._shaped("Attention", [q, k, v], f"{name}.attention", dimensions(q), attributes)
        turned = self._node("Transpose", [mixed], f"{name}.turned", [heads, size], {"perm": HEADS_FIRST})
        shape = self.builder.integers([0, 0, heads * size])
        return self._node("Reshape", [turned, shape], f"{name}.joined", [heads * size])

    def gated(self, gate: ir.Value, up: ir.Value, activation: Activation, name: str) -> ir.Value:
        """`activation(gate) · up`, `[batch, sequence, feed_forward]`."""
        width: list[Dimension] = [self.sizes.feed_forward]
        activate = self._silu if activation == "silu" else self._gelu
        return self._node("Mul", [activate(gate, name), up], f"{name}.gated", width)

    def capped(self, x: ir.Value, cap: float, name: str) -> ir.Value:
        """`cap · tanh(x / cap)`."""
        limit = self._scalar(cap)
        small = self._shaped("Div", [x, limit], f"{name}.shrunk", dimensions(x))
        bounded = self._shaped("Tanh", [small], f"{name}.bounded", dimensions(x))
        return self._shaped("Mul", [bounded, limit], name, dimensions(x))

    def sum(self, x: ir.Value, update: ir.Value, name: str) -> ir.Value:
        """The residual stream after `update`."""
        return self._node("Add", [x, update], name, [self.sizes.hidden])

    def _silu(self, x: ir.Value, name: str) -> ir.Value:
        sigmoid = self._shaped("Sigmoid", [x], f"{name}.sigmoid", dimensions(x))
        return self._shaped("Mul", [x, sigmoid], f"{name}.silu", dimensions(x))

    def _gelu(self, x: ir.Value, name: str) -> ir.Value:
        return self._shaped("Gelu", [x], f"{name}.gelu", dimensions(x), {"approximate": "tanh"})

    def _scalar(self, number: float) -> ir.Value:
        return self.builder.constant(np.array(number, np.float32))

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


def _attention_attributes(how: Attending, head_dim: int) -> dict[str, Attribute]:
    """Those that differ from the operator's own defaults."""
    attributes: dict[str, Attribute] = {"is_causal": 1}
    if how.scale != 1 / math.sqrt(head_dim):
        attributes["scale"] = how.scale
    if how.cap is not None:
        attributes["softcap"] = how.cap
    if how.window is not None:
        attributes["left_window_size"] = how.window - 1
    return attributes


def dimensions(value: ir.Value) -> list[Dimension]:
    """Sizes and names of sizes of a value that has a shape."""
    assert value.shape is not None, "every traced value has a shape"
    return [one if isinstance(one, int) else one.value for one in value.shape]
