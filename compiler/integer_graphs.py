"""Integer versions of a graph among the candidates of the measured choice."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from intaglio.compiler.calibration import CalibrationInputs
from intaglio.compiler.graph_candidates import WholeGraphs
from intaglio.compiler.graph_ports import GraphPorts
from intaglio.compiler.int8_candidates import Int8Candidate, Int8Options, int8_candidates
from intaglio.compiler.ir import OPSET_KEPT
from intaglio.compiler.partition import Candidate, Partition
from intaglio.compiler.partition_timing import Call
from intaglio.compiler.settings import Settings
from intaglio.passes.result import Applied, Declined, PassResult

NAME = "integer_graphs"
SEPARATOR = " in "


class IntegerGraphs:
    """Those that `quality` allows, written below `folder`; none where nobody asked for it.

    Raises `OptionError` where the calibration inputs do not fit the model.
    """

    def __init__(
        self, model: ir.Model, ports: GraphPorts, calls: Sequence[Call], settings: Settings, folder: Path
    ) -> None:
        self._folder, self._model = folder, model
        self._found: dict[str, Int8Candidate] = {}
        self._written: dict[str, WholeGraphs] = {}
        self._declined: tuple[Declined, ...] = ()
        if settings.quality is None:
            return
        inputs = CalibrationInputs.of(ports, settings.calibration, calls)
        if (kept := model.metadata_props.get(OPSET_KEPT)) is not None:
            self._declined = (Declined(NAME, "model", f"its layers stay as they are: {kept}"),)
            return
        found = int8_candidates(model, inputs, Int8Options(settings.quality, settings.threads))
        self._declined = found.declined
        for one in found.candidates:
            self._write(one, ports, settings.threads)

    def candidates(self) -> list[Candidate]:
        """Each in onnxruntime. They need not equal the original: the gate has judged them."""
        return [
            Candidate(f"{name}{SEPARATOR}{one.name}", one.open, math.inf)
            for name, graphs in self._written.items()
            for one in graphs.candidates()
        ]

    def keep(self, kept: str) -> ir.Model | None:
        """Move the files of candidate `kept`, if it is one of these, into the artefact; its graph."""
        name, _, way = kept.rpartition(SEPARATOR)
        if name in self._written:
            self._written[name].keep(way)
            for file in self._place(name).iterdir():
                file.rename(self._folder / file.name)
        for other in self._written:
            shutil.rmtree(self._place(other))
        return self._found[name].model if name in self._found else None

    def account(self, measured: Partition) -> PassResult:
        """What was rounded, or why nothing was: the gate's figures, or the time that it takes."""
        name = measured.kept.rpartition(SEPARATOR)[0]
        slower = [
            Declined(NAME, one, f"within the tolerance ({self._found[one].quality}), but slower")
            for one in self._found
            if one != name
        ]
        chosen = self._found.get(name)
        applied: tuple[Applied, ...] = () if chosen is None else chosen.applied
        kept = () if chosen is None else chosen.declined
        return PassResult(self._model, applied, (*kept, *self._declined, *slower))

    def _write(self, one: Int8Candidate, ports: GraphPorts, threads: int) -> None:
        self._found[one.name] = one
        place = self._place(one.name)
        place.mkdir()
        self._written[one.name] = WholeGraphs(place, ports, threads)
        self._written[one.name].write(None, one.model)

    def _place(self, name: str) -> Path:
        return self._folder / f"integers{list(self._found).index(name)}"
