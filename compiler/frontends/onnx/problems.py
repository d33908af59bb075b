"""Everything wrong with a model, gathered before anything is raised."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from intaglio.compiler.errors import ModelFileError, UnsupportedModelError


@dataclass
class Problems:
    """What is broken, and what is sound but cannot be compiled; each entry reads as a sentence."""

    model: str  # as messages name it
    broken: list[str] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)

    def add(self, *, broken: Iterable[str] = (), unsupported: Iterable[str] = ()) -> None:
        """Take up problems, each only once."""
        self.broken += [one for one in dict.fromkeys(broken) if one not in self.broken]
        self.unsupported += [one for one in dict.fromkeys(unsupported) if one not in self.unsupported]

    def raise_any(self) -> None:
        """Raise `ModelFileError` if anything is broken, else `UnsupportedModelError`, each listing all."""
        if self.broken:
            listed = "\n  - ".join([*self.broken, *self.unsupported])
            raise ModelFileError(f"onnx: {self.model} is broken; export it again:\n  - {listed}")
        if self.unsupported:
            raise UnsupportedModelError(f"onnx: {self.model} cannot be compiled:", self.unsupported)
