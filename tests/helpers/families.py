"""Tiny configs of families of causal language models, covering every kind of layer that each has.

Windows are shorter than the sequences of the tests, heads share keys where the family does, sizes are odd
where that is possible.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SIZES = {
    "vocab_size": 131,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
WINDOW = 5
GATED = {**SIZES, "intermediate_size": 96, "num_key_value_heads": 2}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
GEMMA = {**GATED, "head_dim": 24, "sliding_window": WINDOW, "query_pre_attn_scalar": 24}


def families() -> dict[str, Callable[[], Any]]:
    """Makers of configs by name; where a family has variants, the name says which."""
    return {
        "llama": _maker("LlamaConfig", **GATED),
        "llama, tied": _maker("LlamaConfig", **GATED, tie_word_embeddings=True),
        "llama, llama3 rope and biases": _maker(
            "LlamaConfig", **GATED, rope_parameters=LLAMA3, attention_bias=True, mlp_bias=True, head_dim=32
        ),
        "qwen2": _maker("Qwen2Config", **GATED),
        "qwen3": _maker("Qwen3Config", **GATED, head_dim=24, tie_word_embeddings=True),
        "gemma2": _maker("Gemma2Config", **GEMMA, final_logit_softcapping=9.0, attn_logit_softcapping=7.0),
        "gemma3_text": _maker("Gemma3TextConfig", **GEMMA, layer_types=_alternating(3)),
        "mistral": _maker("MistralConfig", **GATED, sliding_window=WINDOW),
        "phi3": _maker("Phi3Config", **GATED),
        "gpt2": _maker("GPT2Config", **{**SIZES, "num_hidden_layers": 2}),
        "opt": _maker("OPTConfig", **SIZES, ffn_dim=96, word_embed_proj_dim=64),
        "mixtral": _maker("MixtralConfig", **GATED, num_local_experts=4, num_experts_per_tok=2),
        "qwen3_moe": _maker(
            "Qwen3MoeConfig",
            **{**GATED, "head_dim": 24},
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=40,
            mlp_only_layers=[1],
            norm_topk_prob=True,
        ),
        "gpt_neox": _maker("GPTNeoXConfig", **SIZES, intermediate_size=96),
        "olmo2": _maker("Olmo2Config", **GATED),
        "granite": _maker(
            "GraniteConfig",
            **GATED,
            attention_multiplier=0.2,
            embedding_multiplier=3.0,
            residual_multiplier=0.7,
            logits_scaling=1.5,
        ),
        "cohere": _maker("CohereConfig", **GATED, use_qk_norm=True),
        "stablelm": _maker("StableLmConfig", **GATED),
        "starcoder2": _maker("Starcoder2Config", **GATED, sliding_window=WINDOW),
        "phi": _maker("PhiConfig", **SIZES, intermediate_size=96),
        "smollm3": _maker("SmolLM3Config", **GATED, no_rope_layers=[1, 1, 0]),
    }


def _maker(name: str, **fields: Any) -> Callable[[], Any]:
    def make() -> Any:
        import transformers  # seconds that collecting tests does without

        return getattr(transformers, name)(**fields)

    return make


def _alternating(count: int) -> list[str]:
    return ["full_attention" if index % 2 else "sliding_attention" for index in range(count)]
