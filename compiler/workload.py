"""What a compiled model is going to be used for: an input of the compiler, as the hardware is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from intaglio.compiler.errors import OptionError

MOST_SEQUENCES = 64


@dataclass(frozen=True)
class Workload:
    """Lengths in tokens, and how many sequences are extended together.

    Prompts of up to `prefill` tokens are computed at once (up to 512 of them), longer ones in pieces;
    `prefill` and `decode` are also what `bench` measures. The cache has room for `batch` sequences of the
    whole context.

    Raises `OptionError` for what cannot be.
    """

    prefill: int = 512
    decode: int = 128
    batch: int = 1  # 1 to 64

    def __post_init__(self) -> None:
        problems = [
            f"{name}={value!r} is not a positive whole number"
            for name, value in dataclasses.asdict(self).items()
            if not is_count(value)
        ]
        if not problems and self.batch > MOST_SEQUENCES:
            problems = [f"batch={self.batch} is more than {MOST_SEQUENCES} sequences"]
        if problems:
            raise OptionError(f"Workload: {'; '.join(problems)}.")

    @property
    def tokens(self) -> int:
        """Tokens of one prompt with its continuation."""
        return self.prefill + self.decode

    @classmethod
    def usual(cls, context: int) -> Workload:
        """The default lengths, in the same proportion where `context` tokens are fewer."""
        default = cls()
        if default.tokens <= context:
            return default
        decode = max(1, context * default.decode // default.tokens)
        return cls(max(1, context - decode), decode)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Workload:
        """From the fields by name, as `dataclasses.asdict` gives them."""
        return cls(**values)


def is_count(value: object) -> bool:
    """Whether `value` is a positive whole number (`True` is none)."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
