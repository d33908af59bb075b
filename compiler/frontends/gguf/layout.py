"""What a file must say: the sizes of its decoder and how that computes, from the metadata.

Two decisions. Phi-3 has one set of rotary factors for contexts up to the original length, and another for
longer ones, which changes short texts as well: the first set is compiled, and the context ends at the
original length. Phi-3's window is kept as transformers does it, although llama.cpp ignores it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.frontends.gguf.families import Family, WindowRule
from intaglio.compiler.frontends.gguf.reader import GgufFile
from intaglio.compiler.frontends.gguf.rotary import RotaryScheme
from intaglio.compiler.frontends.gguf.settings import Settings
from intaglio.compiler.frontends.gguf.tensors import (
    EMBEDDING,
    FREQUENCIES,
    HEAD,
    LONG_FACTORS,
    SHORT_FACTORS,
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
    rotary: RotaryScheme
    local_rotary: RotaryScheme  # of layers with a window
    window: int | None  # tokens that these layers see, the own one included
    window_period: int  # as in `WindowRule`
    attention_scale: float  # scores are multiplied by this
    attention_cap: float | None
    logits_cap: float | None

    def is_local(self, layer: int) -> bool:
        """Whether this layer has a window."""
        period = self.window_period
        return self.window is not None and (not period or (layer + 1) % period != 0)

    @property
    def needs(self) -> TensorNeeds:
        """What decides which tensors there must be."""
        factors = (
            [SHORT_FACTORS, LONG_FACTORS] if self.rotary.factors == SHORT_FACTORS else [self.rotary.factors]
        )
        vectors = {name: (self.rotary.dimensions // 2,) for name in factors if name is not None}
        return TensorNeeds(self.family, self.architecture, vectors)


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
    rotary = _rotary(settings, file, family, sizes.head_dim)
    if rotary.factors == SHORT_FACTORS:
        original = settings.integer("rope.scaling.original_context_length", sizes.context)
        sizes = replace(sizes, context=min(sizes.context, original))
    window, period, local = None, 0, rotary
    if family.window is not None:
        window, period, local = _windows(settings, family.window, rotary)
    wide = sizes.layers == family.wide_scale_layers
    return Layout(
        family=family,
        architecture=sizes,
        epsilon=settings.number("attention.layer_norm_rms_epsilon"),
        rotary=rotary,
        local_rotary=local,
        window=window,
        window_period=period,
        attention_scale=1 / math.sqrt(sizes.hidden // sizes.heads if wide else sizes.head_dim),
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


def _rotary(settings: Settings, file: GgufFile, family: Family, head_dim: int) -> RotaryScheme:
    """How the layers without a window rotate."""
    scheme = RotaryScheme(
        dimensions=_rotated_dimensions(settings, family, head_dim),
        base=settings.number("rope.freq_base", 10000.0),
        scale=_rope_scale(settings, family),
    )
    if family.frequency_factors and FREQUENCIES in file.tensors:
        return replace(scheme, factors=FREQUENCIES)
    if family.context_factors and not file.tensors.keys().isdisjoint((SHORT_FACTORS, LONG_FACTORS)):
        magnitude = settings.number("rope.scaling.attn_factor", 1.0)
        return replace(scheme, factors=SHORT_FACTORS, magnitude=magnitude)
    return scheme


def _rotated_dimensions(settings: Settings, family: Family, head_dim: int) -> int:
    dimensions = head_dim
    if family.partial_rotary:
        dimensions = settings.integer("rope.dimension_count", head_dim, largest=head_dim)
    else:
        settings.one_of("rope.dimension_count", (head_dim,), head_dim)
    if dimensions % 2:
        what = "head dimension" if dimensions == head_dim else "number of rotated dimensions"
        settings.problems.append(f"the {what} {dimensions} is odd, so it cannot be rotated in pairs")
    return dimensions


def _rope_scale(settings: Settings, family: Family) -> float:
    kinds = ("none", "linear", "longrope") if family.context_factors else ("none", "linear")
    kind = settings.one_of("rope.scaling.type", kinds, "none")
    legacy = settings.number("rope.scale_linear", 1.0)
    factor = settings.number("rope.scaling.factor", legacy)
    return factor if kind == "linear" else legacy


def _windows(
    settings: Settings, rule: WindowRule, rotary: RotaryScheme
) -> tuple[int | None, int, RotaryScheme]:
    """Width, period, and how the layers with a window rotate."""
    width = settings.count("attention.sliding_window", rule.width)
    period = settings.integer("attention.sliding_window_pattern", rule.period) if rule.period else 0
    if rule.rope_base is None:
        return width, period, rotary
    base = settings.number("rope.freq_base_swa", rule.rope_base)
    return width, period, RotaryScheme(rotary.dimensions, base)


def _cap(settings: Settings, name: str, default: float | None) -> float | None:
    return None if default is None else settings.limit(name, default)
