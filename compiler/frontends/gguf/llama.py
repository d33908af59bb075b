"""The graph of a llama decoder, straight from the metadata and the tensor table of its GGUF file.

Names follow Hugging Face's (`layers.3.self_attn.q_proj`), so that people find their layers again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.compiler.frontends.decoder_graph import DecoderGraph, Rotation
from intaglio.compiler.frontends.gguf.llama_layout import (
    EMBEDDING,
    FINAL_NORM,
    FREQUENCIES,
    HEAD,
    LlamaLayout,
)
from intaglio.compiler.frontends.gguf.reader import GgufFile
from intaglio.compiler.frontends.gguf.rotary import half_split_order, rotary_tables
from intaglio.compiler.frontends.gguf.weights import StoredTensor, StoredWeight, plain_tensor, store
from intaglio.compiler.ir.builder import GraphBuilder
from intaglio.compiler.ir.functions import dequantize_affine


def build_llama(file: GgufFile, layout: LlamaLayout) -> ir.Model:
    """The model: `input_ids` int64 `[batch, sequence]` → `logits` float32 `[batch, sequence, vocabulary]`."""
    builder = GraphBuilder("llama")
    LlamaGraph(file, layout, DecoderGraph(builder, layout.architecture, layout.epsilon)).build()
    has_minima = any(node.op_type == "DequantizeAffine" for node in builder.graph)
    return builder.model([dequantize_affine()] if has_minima else [])


@dataclass(frozen=True)
class LlamaGraph:
    """Puts the parts of a decoder together with the file's weights."""

    file: GgufFile
    layout: LlamaLayout
    parts: DecoderGraph

    def build(self) -> None:
        """Append everything, from the tokens to the logits."""
        parts, sizes = self.parts, self.layout.architecture
        tokens = parts.tokens()
        table = self._store(EMBEDDING, "embed_tokens.weight")
        x = parts.embedding(table.float32(parts.builder, "embed_tokens.weight"), tokens, "embed_tokens")
        rotation = self._rotation(tokens)
        for layer in range(sizes.layers):
            x = self._attention(x, layer, rotation)
            x = self._gated_mlp(x, layer)
        x = parts.norm(x, self._weight(FINAL_NORM, "norm"), "norm")
        head = table if sizes.tied_embedding else self._store(HEAD, "lm_head.weight")
        logits = parts.linear(x, head.float32(parts.builder, "lm_head.weight"), "lm_head")
        parts.builder.output(logits, "logits")

    def _rotation(self, tokens: ir.Value) -> Rotation:
        builder, sizes, layout = self.parts.builder, self.layout.architecture, self.layout
        factors = plain_tensor(StoredTensor(self.file, FREQUENCIES)) if layout.has_frequency_factors else None
        cosine, sine = rotary_tables(
            sizes.context, sizes.head_dim, layout.rope_base, layout.rope_scale, factors
        )
        return Rotation(
            builder.initializer("rotary.cosine", cosine),
            builder.initializer("rotary.sine", sine),
            self.parts.positions(tokens),
        )

    def _attention(self, x: ir.Value, layer: int, rotation: Rotation) -> ir.Value:
        parts, block, name = self.parts, f"blk.{layer}", f"layers.{layer}.self_attn"
        norm = f"layers.{layer}.input_layernorm"
        normed = parts.norm(x, self._weight(f"{block}.attn_norm.weight", norm), norm)
        q = parts.rotated(self._heads(normed, layer, "q"), rotation, f"{name}.q_rotated")
        k = parts.rotated(self._heads(normed, layer, "k"), rotation, f"{name}.k_rotated")
        joined = parts.attention(q, k, self._heads(normed, layer, "v"), name)
        update = self._linear(joined, f"{block}.attn_output.weight", f"{name}.o_proj")
        return parts.sum(x, update, f"{name}.residual")

    def _heads(self, x: ir.Value, layer: int, letter: str) -> ir.Value:
        """One of q, k and v, `[batch, heads, sequence, head_dim]`."""
        sizes, name = self.layout.architecture, f"layers.{layer}.self_attn.{letter}"
        count = sizes.heads if letter == "q" else sizes.kv_heads
        order = None if letter == "v" else half_split_order(count, sizes.head_dim)
        flat = self._linear(x, f"blk.{layer}.attn_{letter}.weight", f"{name}_proj", order)
        return self.parts.heads(flat, count, name)

    def _gated_mlp(self, x: ir.Value, layer: int) -> ir.Value:
        parts, block, name = self.parts, f"blk.{layer}.ffn", f"layers.{layer}.mlp"
        norm = f"layers.{layer}.post_attention_layernorm"
        normed = parts.norm(x, self._weight(f"{block}_norm.weight", norm), norm)
        gate = self._linear(normed, f"{block}_gate.weight", f"{name}.gate_proj")
        up = self._linear(normed, f"{block}_up.weight", f"{name}.up_proj")
        update = self._linear(parts.gated(gate, up, name), f"{block}_down.weight", f"{name}.down_proj")
        return parts.sum(x, update, f"{name}.residual")

    def _linear(
        self, x: ir.Value, stored: str, name: str, order: NDArray[np.int64] | None = None
    ) -> ir.Value:
        return self.parts.linear(x, self._weight(stored, name, order), name)

    def _weight(self, stored: str, name: str, order: NDArray[np.int64] | None = None) -> ir.Value:
        return self._store(stored, f"{name}.weight", order).float32(self.parts.builder, f"{name}.weight")

    def _store(self, stored: str, name: str, order: NDArray[np.int64] | None = None) -> StoredWeight:
        return store(self.parts.builder, StoredTensor(self.file, stored, order), name)
