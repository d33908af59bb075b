"""What a front end is: something that turns one kind of model file into a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from intaglio.compiler.frontends.traced import Traced


class Frontend(Protocol):
    """Reads one kind of model."""

    @property
    def name(self) -> str:
        """What the format is called in messages."""

    @property
    def accepts(self) -> str:
        """What it takes, in words that fit after "give …"."""

    def claims(self, path: Path) -> bool:
        """Whether `path` is of this kind; reads at most a few bytes, and never raises for a broken file."""

    def trace(self, path: Path) -> Traced:
        """The model at `path`. Raises `ModelFileError` and `UnsupportedModelError`."""
