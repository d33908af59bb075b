"""Every error that Intaglio raises on purpose.

    IntaglioError
    ├── ModelError                  the model cannot be used
    │   ├── ModelFileError          … its file is broken: truncated, wrong magic, sizes that do not add up
    │   └── UnsupportedModelError   … it holds something we cannot compile; lists every such thing at once
    ├── OptionError                 an option or its value is unknown, contradictory or without effect
    │   └── ContextLengthError      … a prompt and its continuation do not fit into the context
    ├── TargetError                 the target is unknown, or this machine cannot build for it or run it
    ├── PassError                   a pass could not do what the plan asked
    │   └── InvariantError          … a graph breaks one of the invariants in `compiler.ir.invariants`
    ├── CodegenError                generating, linking or loading native code failed
    └── ArtifactError               a saved compiled model cannot be written or read
        ├── TamperedArtifactError   … a file is missing or its hash differs
        └── ForeignArtifactError    … it was compiled for a machine unlike this one

A message starts with the operation or the pass, gives the offending value, and says what to do.
"""

from __future__ import annotations

from collections.abc import Sequence


class IntaglioError(Exception):
    """The root of all errors raised on purpose."""


class ModelError(IntaglioError):
    """The model cannot be used."""


class ModelFileError(ModelError):
    """The model's file is broken, and nothing was allocated for it."""


class UnsupportedModelError(ModelError):
    """The model holds something that cannot be compiled; `problems` lists all of it."""

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        self.problems = tuple(problems)
        super().__init__("\n  - ".join([message, *self.problems]))


class OptionError(IntaglioError, ValueError):
    """An option or its value is unknown, contradictory or without effect."""


class ContextLengthError(OptionError):
    """A prompt and its continuation do not fit into the compiled context."""


class TargetError(IntaglioError):
    """The target is unknown, or this machine cannot build for it or run it."""


class PassError(IntaglioError):
    """A pass could not do what the plan asked for."""


class InvariantError(PassError):
    """A graph breaks an invariant of the IR."""


class CodegenError(IntaglioError):
    """Native code could not be generated, linked or loaded."""


class ArtifactError(IntaglioError):
    """A saved compiled model cannot be written or read."""


class TamperedArtifactError(ArtifactError):
    """A file of the artefact is missing or its hash differs from the recorded one."""


class ForeignArtifactError(ArtifactError):
    """The artefact was compiled for a machine unlike this one; `recompile=True` rebuilds its code."""
