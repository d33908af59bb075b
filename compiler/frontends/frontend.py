"""What a front end is: something that turns one kind of model into a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from intaglio.compiler.frontends.traced import Traced


@dataclass(frozen=True)
class TraceOptions:
    """What some front ends need to be told; one that cannot use an option that is set refuses it."""

    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None  # arguments, or keyword arguments
    dynamic_shapes: Any | None = None  # as `torch.export.export` takes them
    padding: bool = False  # for decoders: with an attention mask for padded batches, and without a cache

    @property
    def given(self) -> frozenset[str]:
        """Names of the options that are set."""
        return frozenset(
            name for name, value in vars(self).items() if value is not None and value is not False
        )


class Frontend(Protocol):
    """Reads one kind of model."""

    @property
    def name(self) -> str:
        """What the format is called in messages."""

    @property
    def accepts(self) -> str:
        """What it takes, in words that fit after "give …"."""

    @property
    def options(self) -> frozenset[str]:
        """Names of the `TraceOptions` that it can use."""

    def claims(self, model: object) -> bool:
        """Whether `model`, a `Path` that exists or an object in memory, is of this kind.

        Reads at most a few bytes, imports nothing heavy, and never raises for a broken file.
        """

    def trace(self, model: Any, options: TraceOptions) -> Traced:
        """The model. Raises `ModelFileError`, `UnsupportedModelError` and `OptionError`, each listing all."""
