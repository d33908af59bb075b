"""How positions enter a decoder: rotary schemes and windows, from the metadata.

Two decisions. Phi-3 has one set of rotary factors for contexts up to the original length, and another for
longer ones, which changes short texts as well: the first set is compiled, and the context ends at the
original length. Phi-3's window is kept as transformers does it, although llama.cpp ignores it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from intaglio.compiler.frontends.gguf.families import Family
from intaglio.compiler.frontends.gguf.reader import GgufFile
from intaglio.compiler.frontends.gguf.rotary import RotaryScheme
from intaglio.compiler.frontends.gguf.settings import Settings
from intaglio.compiler.frontends.gguf.tensors import FREQUENCIES, LONG_FACTORS, SHORT_FACTORS, Shapes
from intaglio.compiler.frontends.traced import DecoderArchitecture


@dataclass(frozen=True)
class Positions:
    """What layers with a window, here called local, and the others do with positions."""

    context: int  # tokens that the schemes reach to
    rotary: RotaryScheme
    local_rotary: RotaryScheme
    window: int | None = None  # tokens that local layers see, the own one included; None: no layer is local
    period: int = 0  # as in `WindowRule`

    def is_local(self, layer: int) -> bool:
        """Whether this layer has a window."""
        return self.window is not None and (not self.period or (layer + 1) % self.period != 0)

    def window_of(self, layer: int) -> int | None:
        """The layer's window, unless the context is no longer than that."""
        is_narrow = self.is_local(layer) and self.window is not None and self.window < self.context
        return self.window if is_narrow else None

    @property
    def factor_shapes(self) -> Shapes:
        """The tensors of rotary factors that the file must hold, whether they are used or not."""
        used = self.rotary.factors
        names = (SHORT_FACTORS, LONG_FACTORS) if used == SHORT_FACTORS else (used,)
        return {name: (self.rotary.dimensions // 2,) for name in names if name is not None}


def read_positions(
    settings: Settings, file: GgufFile, family: Family, sizes: DecoderArchitecture
) -> Positions:
    """The positions of `file`; what is wrong becomes problems of `settings`."""
    rotary, rule = _rotary(settings, file, family, sizes.head_dim), family.window
    context = sizes.context
    if rotary.factors == SHORT_FACTORS:
        context = min(context, settings.integer("rope.scaling.original_context_length", context))
    if rule is None:
        return Positions(context, rotary, rotary)
    window = settings.count("attention.sliding_window", rule.width)
    period = settings.integer("attention.sliding_window_pattern", rule.period) if rule.period else 0
    local = rotary
    if rule.rope_base is not None:
        local = RotaryScheme(rotary.dimensions, settings.number("rope.freq_base_swa", rule.rope_base))
    return Positions(context, rotary, local, window, period)


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
