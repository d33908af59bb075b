"""What a file must say: the sizes of its decoder, and how that computes, from the metadata."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.frontends.gguf.families import Family
from intaglio.compiler.frontends.gguf.positions import Positions, read_positions
from intaglio.compiler.frontends.gguf.reader import GgufFile
from intaglio.compiler.frontends.gguf.settings import Settings
from intaglio.compiler.frontends.gguf.tensors import (
    EMBEDDING,
    HEAD,
    TensorNeeds,
    file_problems,
    tensor_problems,
)
from intaglio.compiler.frontends.traced import DecoderArchitecture

HARMLESS = (  # these describe how the file came about, not what the model computes
    "tensor_data_layout",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
)


@dataclass(frozen=True)
class Layout:
    """One decoder: its family, its sizes, and the numbers that a family leaves open."""

    family: Family
    architecture: DecoderArchitecture
    epsilon: float  # of the RMS norms
    positions: Positions
    attention_scale: float  # scores are multiplied by this
    attention_cap: float | None
    logits_cap: float | None

    @property
    def needs(self) -> TensorNeeds:
        """What decides which tensors there must be."""
        return TensorNeeds(self.family, self.architecture, self.positions.factor_shapes)


def read_layout(file: GgufFile, family: Family) -> Layout:
    """The layout of `file`; `UnsupportedModelError` lists everything in it that cannot be compiled."""
    settings = Settings(file.metadata, family.name)
    layout = _layout(settings, file, family)
    settings.refuse_unread(HARMLESS)
    settings.problems += file_problems(file, layout.architecture.vocabulary)
    problems = settings.problems or list(tensor_problems(file, layout.needs))
    if problems:
        raise UnsupportedModelError(f"gguf: {file.path} cannot be compiled:", problems)
    return layout


def _layout(settings: Settings, file: GgufFile, family: Family) -> Layout:
    sizes = _architecture(settings, file, family)
    positions = read_positions(settings, file, family, sizes)
    scaled_by = sizes.head_dim
    if sizes.layers == family.wide_scale_layers:
        scaled_by = max(sizes.hidden // sizes.heads, 1)
    return Layout(
        family=family,
        architecture=replace(sizes, context=positions.context),
        epsilon=settings.number("attention.layer_norm_rms_epsilon"),
        positions=positions,
        attention_scale=1 / math.sqrt(scaled_by),
        attention_cap=_cap(settings, "attn_logit_softcapping", family.attention_cap),
        logits_cap=_cap(settings, "final_logit_softcapping", family.logits_cap),
    )


def _architecture(settings: Settings, file: GgufFile, family: Family) -> DecoderArchitecture:
    heads = settings.integer("attention.head_count")
    hidden = settings.integer("embedding_length")
    head_dim = settings.integer("attention.key_length", max(hidden // heads, 1))
    kv_heads = settings.integer("attention.head_count_kv", heads)
    embedding = file.tensors.get(EMBEDDING)
    vocabulary = settings.integer("vocab_size", embedding.shape[0] if embedding else None)
    if heads % kv_heads:
        settings.problems.append(f"{heads} attention heads cannot share {kv_heads} key heads evenly")
    settings.one_of("attention.value_length", (head_dim,), head_dim)
    settings.one_of("expert_count", (0,), 0)
    settings.one_of("expert_used_count", (0,), 0)
    settings.one_of("attention.causal", (True,), True)
    return DecoderArchitecture(
        layers=settings.integer("block_count", largest=2**16),
        hidden=hidden,
        feed_forward=settings.integer("feed_forward_length"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        context=settings.integer("context_length"),
        tied_embedding=HEAD not in file.tensors,
        family=family.name,
    )


def _cap(settings: Settings, name: str, default: float | None) -> float | None:
    return None if default is None else settings.limit(name, default)
