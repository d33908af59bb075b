"""The graph of a decoder, straight from the metadata and the tensor table of its GGUF file.

Names follow Hugging Face's (`layers.3.self_attn.q_proj`), so that people find their layers again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.compiler.frontends.decoder_graph import Attending, DecoderGraph, Rotation
from intaglio.compiler.frontends.gguf.layout import Layout
from intaglio.compiler.frontends.gguf.reader import GgufFile
from intaglio.compiler.frontends.gguf.rotary import RotaryScheme, half_split_order, rotary_tables
from intaglio.compiler.frontends.gguf.tensors import EMBEDDING, FINAL_NORM, HEAD
from intaglio.compiler.frontends.gguf.weights import StoredTensor, StoredWeight, plain_tensor, store
from intaglio.compiler.ir.builder import GraphBuilder
from intaglio.compiler.ir.functions import dequantize_affine


def build_decoder(file: GgufFile, layout: Layout) -> ir.Model:
    """The model: `input_ids` int64 `[batch, sequence]` → `logits` float32 `[batch, sequence, vocabulary]`."""
    builder = GraphBuilder(layout.family.name)
    Decoder(file, layout, DecoderGraph(builder, layout.architecture, layout.epsilon)).build()
    has_minima = any(node.op_type == "DequantizeAffine" for node in builder.graph)
    return builder.model([dequantize_affine()] if has_minima else [])


@dataclass(frozen=True)
class Decoder:
    """Puts the parts of a decoder together with the file's weights."""

    file: GgufFile
    layout: Layout
    parts: DecoderGraph

    def build(self) -> None:
        """Append everything, from the tokens to the logits."""
        parts, layout, sizes = self.parts, self.layout, self.layout.architecture
        tokens = parts.tokens()
        table = self._store(EMBEDDING, "embed_tokens.weight")
        x = parts.embedding(table.float32(parts.builder, "embed_tokens.weight"), tokens, "embed_tokens")
        if layout.family.scaled_embedding:
            x = parts.scaled(x, math.sqrt(sizes.hidden), "embed_tokens.scaled")
        rotations = self._rotations(tokens)
        for layer in range(sizes.layers):
            x = self._attention(x, layer, rotations[layout.positions.is_local(layer)])
            x = self._mlp(x, layer)
        x = parts.norm(x, self._weight(FINAL_NORM, "norm"), "norm")
        head = table if sizes.tied_embedding else self._store(HEAD, "lm_head.weight")
        logits = parts.linear(x, head.float32(parts.builder, "lm_head.weight"), "lm_head")
        if layout.logits_cap is not None:
            logits = parts.capped(logits, layout.logits_cap, "lm_head.capped")
        parts.builder.output(logits, "logits")

    def _rotations(self, tokens: ir.Value) -> dict[bool, Rotation]:
        """How the layers with a window (True) and those without rotate."""
        how, ids = self.layout.positions, self.parts.positions(tokens)
        kinds = {how.is_local(layer) for layer in range(self.layout.architecture.layers)}
        if how.local_rotary == how.rotary:
            return dict.fromkeys(kinds, self._rotation(how.rotary, ids, "rotary"))
        schemes = {False: (how.rotary, "rotary"), True: (how.local_rotary, "rotary.local")}
        return {kind: self._rotation(schemes[kind][0], ids, schemes[kind][1]) for kind in sorted(kinds)}

    def _rotation(self, scheme: RotaryScheme, positions: ir.Value, name: str) -> Rotation:
        factors = plain_tensor(StoredTensor(self.file, scheme.factors)) if scheme.factors else None
        cosine, sine = rotary_tables(self.layout.architecture.context, scheme, factors)
        make = self.parts.builder.initializer
        return Rotation(make(f"{name}.cosine", cosine), make(f"{name}.sine", sine), positions)

    def _attention(self, x: ir.Value, layer: int, rotation: Rotation) -> ir.Value:
        parts, block, name = self.parts, f"blk.{layer}", f"layers.{layer}.self_attn"
        normed = self._norm(x, f"{block}.attn_norm", f"layers.{layer}.input_layernorm")
        q, k, v = self._fused_heads(normed, layer) if self.layout.family.fused else self._heads(normed, layer)
        q = parts.rotated(q, rotation, f"{name}.q_rotated")
        k = parts.rotated(k, rotation, f"{name}.k_rotated")
        window = self.layout.positions.window_of(layer)
        how = Attending(self.layout.attention_scale, self.layout.attention_cap, window)
        joined = parts.attention(q, k, v, how, name)
        update = self._linear(joined, f"{block}.attn_output", f"{name}.o_proj")
        if self.layout.family.outer_norms:
            outer = f"layers.{layer}.post_attention_layernorm"
            update = self._norm(update, f"{block}.post_attention_norm", outer)
        return parts.sum(x, update, f"{name}.residual")

    def _heads(self, x: ir.Value, layer: int) -> tuple[ir.Value, ...]:
        """q, k and v, `[batch, heads, sequence, head_dim]` each."""
        return tuple(self._head_projection(x, layer, letter) for letter in "qkv")

    def _head_projection(self, x: ir.Value, layer: int, letter: str) -> ir.Value:
        family, sizes = self.layout.family, self.layout.architecture
        stored, name = f"blk.{layer}.attn_{letter}", f"layers.{layer}.self_attn.{letter}"
        count = sizes.heads if letter == "q" else sizes.kv_heads
        turns = letter != "v"
        order = half_split_order(count, sizes.head_dim) if turns and family.neighbouring_pairs else None
        weight = self._weight(f"{stored}.weight", f"{name}_proj", order)
        bias = self._plain(f"{stored}.bias", f"{name}_proj.bias") if family.projection_biases else None
        flat = self.parts.linear(x, weight, f"{name}_proj", bias)
        has_norm = turns and family.head_norms
        norm = self._plain(f"{stored}_norm.weight", f"{name}_norm.weight") if has_norm else None
        return self.parts.heads(flat, count, name, norm)

    def _fused_heads(self, x: ir.Value, layer: int) -> tuple[ir.Value, ...]:
        """q, k and v of one projection."""
        sizes, name = self.layout.architecture, f"layers.{layer}.self_attn"
        counts = (sizes.heads, sizes.kv_heads, sizes.kv_heads)
        joined = self._linear(x, f"blk.{layer}.attn_qkv", f"{name}.qkv_proj")
        flat = self.parts.parts(joined, [count * sizes.head_dim for count in counts], f"{name}.qkv_proj")
        letters = zip("qkv", flat, counts, strict=True)
        return tuple(self.parts.heads(one, count, f"{name}.{letter}") for letter, one, count in letters)

    def _mlp(self, x: ir.Value, layer: int) -> ir.Value:
        family, block, name = self.layout.family, f"blk.{layer}", f"layers.{layer}.mlp"
        inner = "pre_feedforward_layernorm" if family.outer_norms else "post_attention_layernorm"
        normed = self._norm(x, f"{block}.ffn_norm", f"layers.{layer}.{inner}")
        gate, up = self._gate_and_up(normed, layer)
        mixed = self.parts.gated(gate, up, family.activation, name)
        update = self._linear(mixed, f"{block}.ffn_down", f"{name}.down_proj")
        if family.outer_norms:
            outer = f"layers.{layer}.post_feedforward_layernorm"
            update = self._norm(update, f"{block}.post_ffw_norm", outer)
        return self.parts.sum(x, update, f"{name}.residual")

    def _gate_and_up(self, x: ir.Value, layer: int) -> tuple[ir.Value, ...]:
        block, name = f"blk.{layer}.ffn", f"layers.{layer}.mlp"
        if not self.layout.family.fused:
            gate = self._linear(x, f"{block}_gate", f"{name}.gate_proj")
            return gate, self._linear(x, f"{block}_up", f"{name}.up_proj")
        joined = self._linear(x, f"{block}_up", f"{name}.gate_up_proj")
        return self.parts.parts(joined, [self.layout.architecture.feed_forward] * 2, f"{name}.gate_up_proj")

    def _norm(self, x: ir.Value, stored: str, name: str) -> ir.Value:
        return self.parts.norm(x, self._weight(f"{stored}.weight", name), name)

    def _linear(self, x: ir.Value, stored: str, name: str) -> ir.Value:
        return self.parts.linear(x, self._weight(f"{stored}.weight", name), name)

    def _weight(self, stored: str, name: str, order: NDArray[np.int64] | None = None) -> ir.Value:
        return self._store(stored, f"{name}.weight", order).float32(self.parts.builder, f"{name}.weight")

    def _plain(self, stored: str, name: str) -> ir.Value:
        return self._store(stored, name).float32(self.parts.builder, name)

    def _store(self, stored: str, name: str, order: NDArray[np.int64] | None = None) -> StoredWeight:
        return store(self.parts.builder, StoredTensor(self.file, stored, order), name)
