"""Typed reading of an architecture's metadata; whatever is wrong with it is collected, not raised."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from intaglio.compiler.frontends.gguf.metadata import Value


@dataclass
class Settings:
    """The keys `{prefix}.…` of a file. A value of the wrong type, or out of range, becomes a problem."""

    metadata: Mapping[str, Value]
    prefix: str
    problems: list[str] = field(default_factory=list)
    read: set[str] = field(default_factory=set)

    def integer(self, name: str, default: int | None = None, *, largest: int = 2**24) -> int:
        """A positive whole number; `default` where the key is absent (None: the key must be there)."""
        value = self._get(name, default)
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= largest:
            return value
        self._refuse(name, value, f"a whole number from 1 to {largest} for all layers")
        return 1

    def number(self, name: str, default: float | None = None) -> float:
        """A positive, finite number."""
        value = self._get(name, default)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
            return float(value)
        self._refuse(name, value, "a positive number")
        return 1.0

    def count(self, name: str, default: int) -> int | None:
        """A positive whole number; None where 0 stands for it."""
        return None if self._is_zero(name, default) else self.integer(name, default)

    def limit(self, name: str, default: float) -> float | None:
        """A positive, finite number; None where 0 stands for it."""
        return None if self._is_zero(name, default) else self.number(name, default)

    def one_of(self, name: str, accepted: tuple[Value, ...], default: Value) -> Value:
        """A value out of `accepted`."""
        value = self._get(name, default)
        if isinstance(value, str | bool | int | float) and value in accepted:
            return value
        self._refuse(name, value, "one of " + ", ".join(map(repr, accepted)))
        return default

    def refuse_unread(self, harmless: tuple[str, ...]) -> None:
        """Every key that nobody read may change the computation, unless it is known not to."""
        for key in self.metadata:
            name = key.removeprefix(f"{self.prefix}.")
            if name != key and name not in self.read and name not in harmless:
                self.problems.append(f"metadata {key} = {_shown(self.metadata[key])} has no meaning here")

    def _get(self, name: str, default: Value | None) -> Value | None:
        self.read.add(name)
        return self.metadata.get(f"{self.prefix}.{name}", default)

    def _is_zero(self, name: str, default: float) -> bool:
        value = self._get(name, default)
        return isinstance(value, int | float) and not isinstance(value, bool) and value == 0

    def _refuse(self, name: str, value: Value | None, wanted: str) -> None:
        key = f"{self.prefix}.{name}"
        self.problems.append(
            f"metadata {key} is missing"
            if value is None
            else f"metadata {key} = {_shown(value)} is not {wanted}"
        )


def _shown(value: Value) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "…"
