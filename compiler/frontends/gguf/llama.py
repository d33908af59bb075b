"""The graph of a llama decoder, straight from the metadata and the tensor table.

Whole sequences, no cache, standard ops: the form called "as traced" in docs/architecture.md.
Names follow Hugging Face's (`layers.3.self_attn.q_proj`), so that people find their layers again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.compiler.frontends.gguf.llama_layout import (
    EMBEDDING,
    FINAL_NORM,
    FREQUENCIES,
    HEAD,
    LlamaLayout,
)
from intaglio.compiler.frontends.gguf.reader import GgufFile
from intaglio.compiler.frontends.gguf.rotary import half_split_order, rotary_tables
from intaglio.compiler.frontends.gguf.weights import FLOAT, StoredTensor, StoredWeight, plain_tensor, store
from intaglio.compiler.ir.builder import Attribute, GraphBuilder
from intaglio.compiler.ir.functions import dequantize_affine

HEADS_FIRST = [0, 2, 1, 3]  # [batch, sequence, heads, head_dim] ↔ [batch, heads, sequence, head_dim]


def build_llama(file: GgufFile, layout: LlamaLayout) -> ir.Model:
    """The model: `input_ids` int64 `[batch, sequence]` → `logits` float32 `[batch, sequence, vocabulary]`."""
    builder = GraphBuilder("llama")
    LlamaGraph(builder, file, layout).build()
    has_minima = any(node.op_type == "DequantizeAffine" for node in builder.graph)
    return builder.model([dequantize_affine()] if has_minima else [])


@dataclass(frozen=True)
class Rotation:
    """What every layer's rotary embedding shares."""

    cosine: ir.Value
    sine: ir.Value
    positions: ir.Value


@dataclass(frozen=True)
class LlamaGraph:
    """Appends a decoder to `builder`."""

    builder: GraphBuilder
    file: GgufFile
    layout: LlamaLayout

    def build(self) -> None:
        """Append everything, from the tokens to the logits."""
        sizes = self.layout.architecture
        tokens = self.builder.input("input_ids", ir.DataType.INT64, ["batch", "sequence"])
        table = self._store(EMBEDDING, "embed_tokens.weight")
        weight = table.float32(self.builder, "embed_tokens.weight")
        x = self._node("Gather", [weight, tokens], "embed_tokens", [sizes.hidden])
        rotation = self._rotation(tokens)
        for layer in range(sizes.layers):
            x = self._attention(x, layer, rotation)
            x = self._gated_mlp(x, layer)
        x = self._norm(x, FINAL_NORM, "norm")
        head = table if sizes.tied_embedding else self._store(HEAD, "lm_head.weight")
        self.builder.output(self._linear(x, head, "lm_head"), "logits")

    def _rotation(self, tokens: ir.Value) -> Rotation:
        sizes, layout = self.layout.architecture, self.layout
        factors = plain_tensor(StoredTensor(self.file, FREQUENCIES)) if layout.has_frequency_factors else None
        cosine, sine = rotary_tables(
            sizes.context, sizes.head_dim, sizes.rope_base, layout.rope_scale, factors
        )
        return Rotation(
            self.builder.initializer("rotary.cosine", cosine),
            self.builder.initializer("rotary.sine", sine),
            self._positions(tokens),
        )

    def _positions(self, tokens: ir.Value) -> ir.Value:
        """0, 1, … for every sequence of the batch, int64 `[batch, sequence]`."""
        node, whole = self.builder.node, ir.DataType.INT64
        shape = node("Shape", [tokens], name="tokens.shape", dtype=whole, shape=[2])
        length = node(
            "Gather", [shape, self.builder.integer(1)], name="tokens.sequence", dtype=whole, shape=[]
        )
        steps = [self.builder.integer(0), length, self.builder.integer(1)]
        row = node("Range", steps, name="positions.row", dtype=whole, shape=["sequence"])
        return node("Expand", [row, shape], name="position_ids", dtype=whole, shape=["batch", "sequence"])

    def _attention(self, x: ir.Value, layer: int, rotation: Rotation) -> ir.Value:
        sizes, name = self.layout.architecture, f"layers.{layer}.self_attn"
        normed = self._norm(x, f"blk.{layer}.attn_norm.weight", f"layers.{layer}.input_layernorm")
        q = self._rotated(self._heads(normed, layer, "q", sizes.heads), rotation, f"{name}.q_rotated")
        k = self._rotated(self._heads(normed, layer, "k", sizes.kv_heads), rotation, f"{name}.k_rotated")
        v = self._heads(normed, layer, "v", sizes.kv_heads)
        mixed = self.builder.node(
            "Attention",
            [q, k, v],
            {"is_causal": 1},
            name=f"{name}.attention",
            dtype=FLOAT,
            shape=dimensions(q),
        )
        joined = self._joined(mixed, f"{name}.joined")
        weight = self._store(f"blk.{layer}.attn_output.weight", f"{name}.o_proj.weight")
        return self._sum(x, self._linear(joined, weight, f"{name}.o_proj"), f"{name}.residual")

    def _heads(self, x: ir.Value, layer: int, letter: str, heads: int) -> ir.Value:
        """One of q, k and v, `[batch, heads, sequence, head_dim]`."""
        size, name = self.layout.architecture.head_dim, f"layers.{layer}.self_attn.{letter}"
        order = None if letter == "v" else half_split_order(heads, size)
        weight = self._store(f"blk.{layer}.attn_{letter}.weight", f"{name}_proj.weight", order)
        flat = self._linear(x, weight, f"{name}_proj")
        shape = self.builder.integers([0, 0, heads, size])
        split = self._node("Reshape", [flat, shape], f"{name}_split", [heads, size])
        return self.builder.node(
            "Transpose",
            [split],
            {"perm": HEADS_FIRST},
            name=f"{name}_heads",
            dtype=FLOAT,
            shape=["batch", heads, "sequence", size],
        )

    def _rotated(self, x: ir.Value, rotation: Rotation, name: str) -> ir.Value:
        inputs = [x, rotation.cosine, rotation.sine, rotation.positions]
        return self.builder.node("RotaryEmbedding", inputs, name=name, dtype=FLOAT, shape=dimensions(x))

    def _joined(self, x: ir.Value, name: str) -> ir.Value:
        """`[batch, heads, sequence, head_dim]` → `[batch, sequence, heads · head_dim]`."""
        sizes = self.layout.architecture
        width = sizes.heads * sizes.head_dim
        turned = self._node(
            "Transpose", [x], f"{name}.turned", [sizes.heads, sizes.head_dim], {"perm": HEADS_FIRST}
        )
        return self._node("Reshape", [turned, self.builder.integers([0, 0, width])], name, [width])

    def _gated_mlp(self, x: ir.Value, layer: int) -> ir.Value:
        block, name, width = (
            f"blk.{layer}.ffn",
            f"layers.{layer}.mlp",
            [self.layout.architecture.feed_forward],
        )
        normed = self._norm(x, f"{block}_norm.weight", f"layers.{layer}.post_attention_layernorm")
        gate = self._linear(
            normed, self._store(f"{block}_gate.weight", f"{name}.gate_proj.weight"), f"{name}.gate_proj"
        )
        up = self._linear(
            normed, self._store(f"{block}_up.weight", f"{name}.up_proj.weight"), f"{name}.up_proj"
        )
        sigmoid = self._node("Sigmoid", [gate], f"{name}.sigmoid", width)
        silu = self._node("Mul", [gate, sigmoid], f"{name}.silu", width)
        gated = self._node("Mul", [silu, up], f"{name}.gated", width)
        weight = self._store(f"{block}_down.weight", f"{name}.down_proj.weight")
        return self._sum(x, self._linear(gated, weight, f"{name}.down_proj"), f"{name}.residual")

    def _norm(self, x: ir.Value, stored: str, name: str) -> ir.Value:
        sizes = self.layout.architecture
        weight = self._store(stored, f"{name}.weight").float32(self.builder, f"{name}.weight")
        attributes = {"epsilon": sizes.epsilon, "axis": -1}
        return self._node("RMSNormalization", [x, weight], name, [sizes.hidden], attributes)

    def _linear(self, x: ir.Value, weight: StoredWeight, name: str) -> ir.Value:
        rows, columns = weight.shape
        matrix = weight.float32(self.builder, f"{name}.weight")
        turned = self.builder.node(
            "Transpose",
            [matrix],
            {"perm": [1, 0]},
            name=f"{name}.transposed",
            dtype=FLOAT,
            shape=[columns, rows],
        )
        return self._node("MatMul", [x, turned], name, [rows])

    def _sum(self, x: ir.Value, update: ir.Value, name: str) -> ir.Value:
        return self._node("Add", [x, update], name, [self.layout.architecture.hidden])

    def _store(self, stored: str, name: str, order: NDArray[np.int64] | None = None) -> StoredWeight:
        return store(self.builder, StoredTensor(self.file, stored, order), name)

    def _node(
        self,
        op_type: str,
        inputs: list[ir.Value],
        name: str,
        tail: list[int],
        attributes: Mapping[str, Attribute] | None = None,
    ) -> ir.Value:
        """A node whose output is float32 `[batch, sequence, *tail]`."""
        shape: list[int | str | None] = ["batch", "sequence", *tail]
        return self.builder.node(op_type, inputs, attributes, name=name, dtype=FLOAT, shape=shape)


def dimensions(value: ir.Value) -> list[int | str | None]:
    """Sizes and names of sizes of a value that has a shape."""
    assert value.shape is not None, "every traced value has a shape"
    return [one if isinstance(one, int) else one.value for one in value.shape]
