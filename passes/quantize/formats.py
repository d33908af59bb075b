"""What can be done to the weights and activations of one linear layer, and how it is written down.

    treatment   = weights [":" activations]
    weights     = "keep" | "fp32" | "bf16" | "int" ("4" | "8") "-" group ["-" scheme]
    group       = "g32" | "g64" | "g128" | "channel"
    scheme      = "symmetric" | "asymmetric" | "minimum"          (left out: symmetric)
    activations = "a8g" number | "a16"                            (left out: a8g32 on quantised weights)

`keep` leaves the weights on the model's own grid. `a8g32` rounds activations to int8 with one scale per 32;
`a16` leaves them in floating point.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast, get_args

from intaglio.compiler.errors import OptionError

Scheme = Literal["symmetric", "asymmetric", "minimum"]
FloatType = Literal["fp32", "bf16"]
CacheFormat = Literal["fp32", "fp16", "bf16", "int8"]
CACHE_FORMATS: tuple[CacheFormat, ...] = get_args(CacheFormat)
PrefillFormat = Literal["exact", "int8-gates", "int8"]
PREFILL_FORMATS: tuple[PrefillFormat, ...] = get_args(PrefillFormat)
WEIGHT_GROUPS = (32, 64, 128)
CHANNEL_ACTIVATION_GROUP = 32
_GRAMMAR = (
    "keep, fp32, bf16 or int4|int8-g32|g64|g128|channel[-symmetric|-asymmetric|-minimum], "
    'then ":a8g32", ":a16" or nothing'
)
_INTEGER = re.compile(r"int(\d+)-(?:g(\d+)|channel)(?:-(\w+))?")


@dataclass(frozen=True)
class WeightFormat:
    """Integer codes with one scale per `group` weights of a row (`None`: per row).

    `symmetric`: w = code · scale, code signed. `asymmetric`: w = (code - zero point) · scale, all integers
    unsigned. `minimum`: w = code · scale + minimum, with a float minimum. Scale and minimum are float16.
    """

    bits: int
    group: int | None
    scheme: Scheme = "symmetric"

    def __post_init__(self) -> None:
        problems = [
            *([] if self.bits in (4, 8) else [f"bits is {self.bits}; use 4 or 8"]),
            *(
                []
                if self.group in (None, *WEIGHT_GROUPS)
                else [f"group is {self.group}; use 32, 64, 128 or None"]
            ),
            *(
                []
                if self.scheme in get_args(Scheme)
                else [f"scheme is {self.scheme!r}; use {get_args(Scheme)}"]
            ),
        ]
        if problems:
            raise OptionError(f"WeightFormat: {'; '.join(problems)}.")

    def __str__(self) -> str:
        group = "channel" if self.group is None else f"g{self.group}"
        scheme = "" if self.scheme == "symmetric" else f"-{self.scheme}"
        return f"int{self.bits}-{group}{scheme}"


@dataclass(frozen=True)
class ActivationFormat:
    """Int8 codes with one float32 scale per `group` activations, found at run time."""

    group: int = CHANNEL_ACTIVATION_GROUP

    def __post_init__(self) -> None:
        if self.group < 1:
            raise OptionError(f"ActivationFormat: group is {self.group}; it must be at least 1.")

    def __str__(self) -> str:
        return f"a8g{self.group}"


@dataclass(frozen=True)
class Treatment:
    """What happens to one linear layer.

    `weights` is a format to round to, a floating-point type, or `None` for the model's own grid;
    `activations` is `None` for floating point. The default keeps weights, and rounds activations before
    integer ones.
    """

    weights: WeightFormat | FloatType | None = None
    activations: ActivationFormat | None = ActivationFormat()

    def __post_init__(self) -> None:
        if isinstance(self.weights, str) and self.activations is not None:
            raise OptionError(
                f"Treatment: {self.weights} weights take no {self.activations}; activations are quantised "
                'for integer weights only. Use activations=None (":a16").'
            )
        if problem := group_problem(self.weights, self.activations):
            raise OptionError(f"Treatment: {problem}.")

    def __str__(self) -> str:
        weights = "keep" if self.weights is None else str(self.weights)
        if isinstance(self.weights, str):
            return weights
        return f"{weights}:{self.activations or 'a16'}"

    @staticmethod
    def parse(text: str) -> Treatment:
        """Read a treatment written in the grammar above. Raises `OptionError`."""
        weights_text, colon, activations_text = text.strip().partition(":")
        weights = _parse_weights(weights_text, text)
        if colon:
            return Treatment(weights, _parse_activations(activations_text, text))
        return Treatment(weights, None if isinstance(weights, str) else ActivationFormat())


def group_problem(
    weights: WeightFormat | FloatType | None, activations: ActivationFormat | None
) -> str | None:
    """Why these two formats do not fit together: an activation group may not straddle two weight groups."""
    if not isinstance(weights, WeightFormat) or weights.group is None or activations is None:
        return None
    if weights.group % activations.group == 0:
        return None
    return f"activation group {activations.group} does not divide the weight group {weights.group}"


def _parse_weights(text: str, whole: str) -> WeightFormat | FloatType | None:
    if text == "keep":
        return None
    if text == "fp32" or text == "bf16":
        return text  # type: ignore[return-value]  # mypy widens `text` to str after the `or`
    if not (match := _INTEGER.fullmatch(text)):
        raise OptionError(f"Treatment {whole!r}: {text!r} is not a weight format. Write {_GRAMMAR}.")
    bits, group, scheme = match.groups()
    return WeightFormat(int(bits), int(group) if group else None, _parse_scheme(scheme))


def _parse_scheme(text: str | None) -> Scheme:
    for scheme in get_args(Scheme):
        if scheme == (text or "symmetric"):
            return cast(Scheme, scheme)
    raise OptionError(f"Treatment: {text!r} is not a scheme; use one of {', '.join(get_args(Scheme))}.")


def _parse_activations(text: str, whole: str) -> ActivationFormat | None:
    if text == "a16":
        return None
    if not (match := re.fullmatch(r"a8g(\d+)", text)):
        raise OptionError(f"Treatment {whole!r}: {text!r} is not an activation format. Write {_GRAMMAR}.")
    return ActivationFormat(int(match[1]))
