"""Tiny random models of transformers, and the same models as GGUF files, for each architecture that is read.

Names of tensors, and keys of sizes, are the gguf package's; norms of the gemmas get their 1 added, as
llama.cpp's converter does it. Nothing here is shared with our reader.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

Quantize = Callable[[NDArray[np.float32], gguf.GGMLQuantizationType], NDArray[np.generic]]
VOCABULARY = 300
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.3, 1.7, 2.0, 2.5],
    "long_factor": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
    "original_max_position_embeddings": 64,
    "partial_rotary_factor": 0.75,
}


class Tiny(NamedTuple):
    """One architecture: its configuration, and the keys of its file that sizes do not say."""

    model_type: str
    config: Mapping[str, Any]
    keys: Mapping[str, Any]
    layers: int = 3


TINIES: Mapping[str, Tiny] = {
    "qwen2": Tiny("qwen2", {"rope_theta": 1e6, "tie_word_embeddings": True}, {"rope.freq_base": 1e6}),
    "qwen3": Tiny(
        "qwen3",
        {"rope_theta": 1e6, "head_dim": 32},
        {"rope.freq_base": 1e6, "attention.key_length": 32, "attention.value_length": 32},
    ),
    "gemma": Tiny("gemma", {"head_dim": 32}, {"attention.key_length": 32, "attention.value_length": 32}),
    "gemma2": Tiny(
        "gemma2",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 5,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 3.0,
        },
        {
            "attention.key_length": 32,
            "attention.value_length": 32,
            "attention.sliding_window": 5,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": Tiny(
        "gemma3_text",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 5,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
        {
            "attention.key_length": 32,
            "attention.value_length": 32,
            "attention.sliding_window": 5,
            "rope.freq_base": 1e6,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        },
        layers=7,
    ),
    "phi3": Tiny(
        "phi3",
        {"sliding_window": 7, "original_max_position_embeddings": 64, "rope_parameters": LONGROPE},
        {
            "attention.sliding_window": 7,
            "rope.dimension_count": 12,
            "rope.scaling.original_context_length": 64,
            "rope.scaling.attn_factor": (1 + np.log(2) / np.log(64)) ** 0.5,
        },
    ),
}


def tiny_config(family: str, **changes: Any) -> PreTrainedConfig:
    """The configuration of a tiny model of `family`, with `changes` to it."""
    tiny = TINIES[family]
    options = {**SIZES, "num_hidden_layers": tiny.layers, **tiny.config, **changes}
    return AutoConfig.for_model(tiny.model_type, **options)


def write_tiny(
    path: Path,
    family: str,
    quantize: Quantize,
    *,
    quantization: str = "F32",
    config: Mapping[str, Any] | None = None,
    keys: Mapping[str, Any] | None = None,
    leave_out: tuple[str, ...] = (),
    extra_tensors: Mapping[str, NDArray[np.float32]] | None = None,
) -> PreTrainedModel:
    """Write a random model to `path`, and return it in float32 with the weights that the file holds.

    `config` changes the model, `keys` adds or replaces keys of the file (`None`: leaves one out); names
    without a dot before them get the architecture's prefix. `leave_out` names tensors not to write.
    """
    torch.manual_seed(1)
    wanted = tiny_config(family, **(config or {}))
    model = AutoModelForCausalLM.from_config(wanted, attn_implementation="eager").float().eval()
    writer = gguf.GGUFWriter(path, family)
    for key, value in {**size_keys(wanted), **TINIES[family].keys, **(keys or {})}.items():
        if value is not None:
            add_value(writer, f"{family}.{key}", value)
    with torch.no_grad():
        for name, parameter in stored_parameters(model, family):
            stored = write_tensor(writer, name, parameter.shape, quantize, quantization, name in leave_out)
            parameter.copy_(torch.from_numpy(stored - shift(family, name)))
    factors = wanted.rope_parameters if family == "phi3" else {}
    for kind in ("short", "long"):
        if f"{kind}_factor" in factors and f"rope_factors_{kind}.weight" not in leave_out:
            writer.add_tensor(f"rope_factors_{kind}.weight", np.array(factors[f"{kind}_factor"], np.float32))
    for name, tensor in (extra_tensors or {}).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def size_keys(config: PreTrainedConfig) -> dict[str, int | float]:
    """Keys that every architecture has."""
    return {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
    }


def stored_parameters(model: PreTrainedModel, family: str) -> list[tuple[str, torch.Tensor]]:
    """The model's parameters by their names in a file; a tied head is left out."""
    architecture = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    names = gguf.get_tensor_name_map(architecture, model.config.num_hidden_layers)
    tied = model.config.tie_word_embeddings
    found = model.named_parameters()
    return [
        (names.get_name(name, try_suffixes=(".weight", ".bias")), parameter)
        for name, parameter in found
        if not (tied and name == "lm_head.weight")
    ]


def write_tensor(
    writer: gguf.GGUFWriter,
    name: str,
    shape: torch.Size,
    quantize: Quantize,
    quantization: str,
    skip: bool,
) -> NDArray[np.float32]:
    """Random numbers as the file holds them; norms and biases are float32."""
    random = np.random.default_rng(list(name.encode()))
    if len(shape) == 1:
        weight = random.uniform(0.5, 1.5, shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.F32
    else:
        weight = random.standard_normal(tuple(shape)).astype(np.float32) / np.float32(shape[1] ** 0.5)
        kind = gguf.GGMLQuantizationType[quantization]
    raw = quantize(weight, kind)
    if not skip:
        writer.add_tensor(name, raw, raw_dtype=kind)
    held: NDArray[np.float32] = gguf.quants.dequantize(raw, kind).astype(np.float32)
    return held


def shift(family: str, name: str) -> float:
    """What the file's norms have in addition to the model's."""
    return 1.0 if family.startswith("gemma") and name.endswith("norm.weight") else 0.0


def add_value(writer: gguf.GGUFWriter, key: str, value: str | int | float | bool) -> None:
    """Write one key with the type that llama.cpp's converter gives it."""
    kinds = {
        str: gguf.GGUFValueType.STRING,
        bool: gguf.GGUFValueType.BOOL,
        int: gguf.GGUFValueType.UINT32,
    }
    writer.add_key_value(key, value, kinds.get(type(value), gguf.GGUFValueType.FLOAT32))
