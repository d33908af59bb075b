"""A llama GGUF file as transformers' own model, read by the gguf package: shares nothing with our reader."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def load_llama(path: Path, **config: object) -> LlamaForCausalLM:
    """The model in float32; `config` adds to its configuration (rope scaling)."""
    reader = gguf.GGUFReader(path)
    model = LlamaForCausalLM(_config(reader, config)).float().eval()
    state = {_name(one.name): torch.from_numpy(_weight(one, model.config)) for one in reader.tensors}
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    model.load_state_dict(state)
    return model


def _config(reader: gguf.GGUFReader, extra: dict[str, object]) -> LlamaConfig:
    def value(key: str) -> int | float:
        number: int | float = reader.fields[f"llama.{key}"].contents()
        return number

    heads = value("attention.head_count")
    key_length = reader.fields.get("llama.attention.key_length")
    return LlamaConfig(
        vocab_size=int(reader.tensors[0].shape[1]),
        hidden_size=value("embedding_length"),
        intermediate_size=value("feed_forward_length"),
        num_hidden_layers=value("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=value("attention.head_count_kv"),
        head_dim=key_length.contents() if key_length else value("embedding_length") // heads,
        max_position_embeddings=value("context_length"),
        rms_norm_eps=value("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": value("rope.freq_base"), **extra},
        tie_word_embeddings=False,
    )


def _name(stored: str) -> str:
    parts = stored.removesuffix(".weight").split(".")
    prefix = f"model.layers.{parts[1]}." if parts[0] == "blk" else ""
    return f"{prefix}{NAMES[parts[-1]]}.weight"


def _weight(tensor: gguf.ReaderTensor, config: LlamaConfig) -> NDArray[np.float32]:
    weight: NDArray[np.float32] = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, count in heads.items():
        if f".{name}." in tensor.name:  # neighbouring pairs → halves, as transformers rotates
            pairs = weight.reshape(count, config.head_dim // 2, 2, -1)
            return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(weight.shape))
    return weight
