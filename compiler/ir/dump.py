"""Writes the model's text form after each phase, for reading and for diffing."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from intaglio.compiler.ir.text import to_text


class Dump:
    """Called after each phase: writes `NN-phase.txt` into `folder`, made if need be; without one, nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._count = 0

    def __call__(self, phase: str, model: ir.Model) -> Path | None:
        """Write `model` as it stands after `phase`; the file written, if any."""
        if self._folder is None:
            return None
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self._count:02}-{phase.replace('/', '-')}.txt"
        path.write_text(to_text(model), encoding="utf-8")
        self._count += 1
        return path
