"""Tiny configs of models that are no decoders, with inputs of odd sizes, by family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers

BATCH, SEQUENCE, TARGET = 3, 11, 6
VOCABULARY = 131
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
ENCODER = {**SIZES, "intermediate_size": 96, "max_position_embeddings": 64}
SPECIAL = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
IMAGE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "image_size": 24,
    "patch_size": 8,
}
WHISPER = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "num_mel_bins": 10,
    "max_source_positions": 15,
    "max_target_positions": 20,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 96,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 9,
    "decoder_start_token_id": 0,
}
BART = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "max_position_embeddings": 64,
}

Inputs = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class GraphFamily:
    """A model class of transformers, its config, and inputs for a call."""

    model_class: str
    config: Callable[[], Any]
    inputs: Callable[[], Inputs]
    outputs: tuple[str, ...]
    part: str = ""  # path of the module inside the model that is compiled; empty for all of it


def graph_families() -> dict[str, GraphFamily]:
    """Families by name; where there are several of one, the name says which."""
    hidden = ("last_hidden_state",)
    pooled = ("last_hidden_state", "pooler_output")
    logits = ("logits",)
    return {
        "bert": GraphFamily("BertModel", _config("BertConfig", ENCODER), _segments, pooled),
        "bert, classifier": GraphFamily(
            "BertForSequenceClassification", _config("BertConfig", ENCODER, num_labels=3), _segments, logits
        ),
        "roberta": GraphFamily(
            "RobertaForMaskedLM", _config("RobertaConfig", ENCODER, type_vocab_size=1), _text, logits
        ),
        "distilbert": GraphFamily(
            "DistilBertForQuestionAnswering",
            _config(
                "DistilBertConfig", {}, vocab_size=VOCABULARY, dim=64, n_layers=2, n_heads=4, hidden_dim=96
            ),
            _text,
            ("start_logits", "end_logits"),
        ),
        "mpnet": GraphFamily("MPNetModel", _config("MPNetConfig", ENCODER), _text, pooled),
        "electra": GraphFamily(
            "ElectraForTokenClassification",
            _config("ElectraConfig", ENCODER, embedding_size=24),
            _segments,
            logits,
        ),
        "modernbert": GraphFamily(
            "ModernBertModel",
            _config("ModernBertConfig", ENCODER, **SPECIAL, local_attention=4, global_attn_every_n_layers=2),
            _text,
            hidden,
        ),
        "t5": GraphFamily("T5ForConditionalGeneration", _config("T5Config", T5), _translation, logits),
        "t5, gated": GraphFamily(
            "T5ForConditionalGeneration",
            _config("T5Config", T5, feed_forward_proj="gated-gelu"),
            _translation,
            logits,
        ),
        "t5, encoder": GraphFamily("T5EncoderModel", _config("T5Config", T5), _text, hidden),
        "bart": GraphFamily(
            "BartForConditionalGeneration", _config("BartConfig", BART), _translation, logits
        ),
        "vit": GraphFamily("ViTModel", _config("ViTConfig", IMAGE), _image, pooled),
        "vit, classifier": GraphFamily(
            "ViTForImageClassification", _config("ViTConfig", IMAGE, num_labels=5), _image, logits
        ),
        "deit": GraphFamily(
            "DeiTForImageClassification", _config("DeiTConfig", IMAGE, num_labels=5), _image, logits
        ),
        "clip, vision": GraphFamily("CLIPVisionModel", _config("CLIPVisionConfig", IMAGE), _image, pooled),
        "clip, text": GraphFamily(
            "CLIPTextModel", _config("CLIPTextConfig", ENCODER, eos_token_id=2), _text, pooled
        ),
        "whisper, encoder": GraphFamily(
            "WhisperForConditionalGeneration",
            _config("WhisperConfig", WHISPER),
            _sound,
            hidden,
            part="model.encoder",
        ),
    }


def _config(name: str, sizes: Mapping[str, Any], **others: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, name)(**{**sizes, **others})


def _text() -> dict[str, torch.Tensor]:
    """Sequences of different lengths, padded on the right."""
    tokens = torch.randint(3, VOCABULARY, (BATCH, SEQUENCE), generator=_generator())
    mask = (torch.arange(SEQUENCE)[None] < torch.tensor([[SEQUENCE], [7], [1]])).to(torch.int64)
    return {"input_ids": torch.where(mask == 1, tokens, 1), "attention_mask": mask}


def _segments() -> dict[str, torch.Tensor]:
    second = (torch.arange(SEQUENCE) > 4).to(torch.int64).expand(BATCH, SEQUENCE)
    return {**_text(), "token_type_ids": second}


def _translation() -> dict[str, torch.Tensor]:
    target = torch.randint(3, VOCABULARY, (BATCH, TARGET), generator=_generator())
    return {**_text(), "decoder_input_ids": target}


def _image() -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(BATCH, 3, 24, 24, generator=_generator())}


def _sound() -> dict[str, torch.Tensor]:
    return {"input_features": torch.randn(BATCH, 10, 30, generator=_generator())}


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
