"""The plan: which linear layer of a model gets which treatment, and what holds for a decoder as a whole.

    plan    = [treatment] {"," site "=" treatment} ["," "cache" "=" cache] ["," "prefill" "=" prefill]
    cache   = "fp32" | "fp16" | "bf16" | "int8"      how keys and values are stored (left out: DEFAULT_CACHE,
                                                     EXACT_CACHE where no activations are rounded either)
    prefill = "exact" | "int8-gates" | "int8"        (left out: DEFAULT_PREFILL on AVX-512 VNNI,
                                                     EXACT_PREFILL elsewhere)

For example "int4-g32, lm_head=int8-channel, cache=bf16". With prefill=int8 products of many tokens round
weights that have scales for groups anew, to one 8-bit grid per row (`intaglio.kernels.linear.requantized`);
with int8-gates only those of the layers before gated units do.

The first treatment is the default ("keep" if left out); the grammar of a treatment is in
`intaglio.passes.quantize.formats`. Sites are the linear layers of the canonical decoder, such as
`layers.3.self_attn.qkv_proj`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, cast

from intaglio.compiler.errors import OptionError
from intaglio.passes.quantize.formats import (
    CACHE_FORMATS,
    PREFILL_FORMATS,
    ActivationFormat,
    CacheFormat,
    PrefillFormat,
    Treatment,
    WeightFormat,
)

__all__ = [
    "DEFAULT_CACHE",
    "DEFAULT_PLAN",
    "DEFAULT_PREFILL",
    "GRAPH_PLAN",
    "ActivationFormat",
    "CacheFormat",
    "Plan",
    "PrefillFormat",
    "Treatment",
    "WeightFormat",
]

VERSION = 1
CACHE, PREFILL = "cache", "prefill"  # no linear layers' names
KEEP = Treatment()


@dataclass(frozen=True)
class Plan:
    """One treatment per site; sites not named get the default."""

    default: Treatment = KEEP
    sites: Mapping[str, Treatment] = field(default_factory=dict)
    cache: CacheFormat | None = None  # of keys and values; none: the usual one of a decoder
    prefill: PrefillFormat | None = None  # of products of many tokens; none: the usual one of a decoder

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", MappingProxyType(dict(self.sites)))
        if self.cache not in (None, *CACHE_FORMATS):
            raise OptionError(f"Plan: cache={self.cache!r}; write one of {', '.join(CACHE_FORMATS)}.")
        if self.prefill not in (None, *PREFILL_FORMATS):
            raise OptionError(f"Plan: prefill={self.prefill!r}; write one of {', '.join(PREFILL_FORMATS)}.")

    def __hash__(self) -> int:
        return hash((self.default, frozenset(self.sites.items()), self.cache, self.prefill))

    def __getitem__(self, site: str) -> Treatment:
        """The treatment of `site`."""
        return self.sites.get(site, self.default)

    @property
    def treatments(self) -> tuple[Mapping[str, Treatment], Treatment, CacheFormat, PrefillFormat]:
        """What `apply_treatments` takes: sites, default, cache, prefill."""
        return self.sites, self.default, self.cache or DEFAULT_CACHE, self.prefill or DEFAULT_PREFILL

    @property
    def whole(self) -> dict[str, str]:
        """What is said of the decoder as a whole, by the names of the grammar."""
        return {name: one for name, one in ((CACHE, self.cache), (PREFILL, self.prefill)) if one is not None}

    def rounds_activations(self, sites: Iterable[str], quantized: Collection[str]) -> bool:
        """Whether activations at any of `sites` are rounded; weights at `quantized` are integers anyway."""
        return any(
            self[one].activations is not None
            and (one in quantized or isinstance(self[one].weights, WeightFormat))
            for one in sites
        )

    def __str__(self) -> str:
        whole = (f"{name}={one}" for name, one in self.whole.items())
        sites = (f"{site}={one}" for site, one in sorted(self.sites.items()))
        return ", ".join([str(self.default), *sites, *whole])

    @staticmethod
    def parse(text: str) -> Plan:
        """Read the short form above. Raises `OptionError`."""
        default = KEEP
        sites: dict[str, Treatment] = {}
        whole: dict[str, str] = {}
        for index, part in enumerate(text.split(",")):
            site, equals, treatment = part.rpartition("=")
            if not equals and index > 0:
                raise OptionError(f"Plan {text!r}: {part.strip()!r} needs a site; write site=treatment.")
            if not equals:
                default = Treatment.parse(treatment)
            elif site.strip() in {CACHE, PREFILL} - set(whole):
                whole[site.strip()] = treatment.strip()
            elif site.strip() in (*sites, *whole, ""):
                raise OptionError(f"Plan {text!r}: site {site.strip()!r} is empty or named twice.")
            else:
                sites[site.strip()] = Treatment.parse(treatment)
        return Plan(default, sites, **cast(Any, whole))

    def to_json(self) -> str:
        """The plan as JSON, treatments in their short form, sites sorted."""
        sites = {site: str(one) for site, one in sorted(self.sites.items())}
        return json.dumps(
            {"version": VERSION, "default": str(self.default), "sites": sites, **self.whole}, indent=2
        )

    @staticmethod
    def from_json(text: str) -> Plan:
        """Read what `to_json` wrote. Raises `OptionError`."""
        data = _read_object(text)
        if unknown := sorted(set(data) - {"version", "default", "sites", CACHE, PREFILL}):
            raise OptionError(
                f"Plan: unknown keys {unknown}; a plan has version, default, sites, cache, prefill."
            )
        if data.get("version") != VERSION:
            raise OptionError(
                f"Plan: version is {data.get('version')!r}; this Intaglio reads version {VERSION}."
            )
        sites = data.get("sites", {})
        treatments = [data.get("default", "keep"), *(sites.values() if isinstance(sites, dict) else [None])]
        if not all(isinstance(one, str) for one in treatments):
            raise OptionError(
                "Plan: default and the values of the object sites must be strings such as 'int4-g32'."
            )
        parsed = {site: Treatment.parse(one) for site, one in sites.items()}
        return Plan(Treatment.parse(treatments[0]), parsed, data.get(CACHE), data.get(PREFILL))


def _read_object(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise OptionError(f"Plan: this is not JSON: {error}.") from error
    if not isinstance(data, dict):
        raise OptionError(f"Plan: a plan is a JSON object, not {type(data).__name__}.")
    return data


# The head's logits decide which token wins: rounding its activations takes SmolLM2's top-1 agreement with its
# original from 97.4 to 96.7 %, and saves no time (docs/decisions/0007-rounding-activations.md).
DEFAULT_PLAN = Plan(KEEP, {"lm_head": Treatment(None, None)})

# KL from SmolLM2's original, 2040 tokens: fp32 0.00215, fp16 0.00220, bf16 0.00222 (products of it, too),
# all within each other's 95 % intervals of ± 0.0002; int8 0.0030. bf16 is the fastest of the first three.
DEFAULT_CACHE: CacheFormat = "bf16"
EXACT_CACHE: CacheFormat = "fp32"
# Half of a prompt's products are those before gated units. On SmolLM2 their coarser weights save 7 % of the
# time and add 0.0005 to the KL; those of all layers save 16 % and add 0.003 (docs/decisions/0012).
DEFAULT_PREFILL: PrefillFormat = "int8-gates"
EXACT_PREFILL: PrefillFormat = "exact"  # on families where the other was not measured to pay

# Whatever a graph is, it computes what its authors meant: a model that rounds activations says so itself.
GRAPH_PLAN = Plan(Treatment(None, None))
