"""The ways to run a graph whole in onnxruntime: as traced or as normalised, threads spinning or sleeping."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx_ir as ir

from intaglio.backends.onnxruntime import RegionSession, write_plain, write_region
from intaglio.compiler.array_exchange import Array
from intaglio.compiler.graph_ports import GraphPorts
from intaglio.compiler.manifest import REGION, Manifest
from intaglio.compiler.partition import Candidate
from intaglio.compiler.partition_timing import Call

ORIGINAL, NORMALISED, SPINNING = "onnxruntime", "onnxruntime, normalised", ", threads spinning"


def region_run(session: RegionSession, ports: GraphPorts) -> Callable[[Call], dict[str, Array]]:
    """Calls of `session` in the types of `ports`: it computes bfloat16 graphs in float32, ports included."""

    def run(arrays: Mapping[str, Array]) -> dict[str, Array]:
        fed = {name: one.astype(session.inputs[name].dtype, copy=False) for name, one in arrays.items()}
        results = session.run(fed)
        return {name: results[name].astype(one.numpy, copy=False) for name, one in ports.outputs.items()}

    return run


def spins(manifest: Manifest) -> bool:
    """Whether the kept candidate's threads spin."""
    return str(manifest.partition.get("kept", "")).endswith(SPINNING)


class WholeGraphs:
    """The graph in both forms, written below `folder`, and the candidates that run them."""

    def __init__(self, folder: Path, ports: GraphPorts, threads: int) -> None:
        self._folder, self._ports, self._threads = folder, ports, threads
        self._forms: dict[str, Path] = {}

    def write(self, original: ir.Model | None, normalised: ir.Model) -> None:
        """Write the files; without `original`, since the plan changes what is computed, one form only."""
        for name, model, write in (
            (ORIGINAL, original, write_plain),
            (NORMALISED, normalised, write_region),
        ):
            if model is not None:
                self._forms[name] = self._folder / f"candidate{len(self._forms)}"
                self._forms[name].mkdir()
                write(model, self._forms[name], Path(REGION).stem)

    def candidates(self) -> list[Candidate]:
        """Each form, with threads that sleep and with threads that spin while they wait for each other."""
        ways = [False, True] if self._threads > 1 else [False]
        return [
            Candidate(form + SPINNING * spinning, self._opener(form, spinning))
            for form in self._forms
            for spinning in ways
        ]

    def names(self) -> list[str]:
        """Names of the candidates."""
        return [one.name for one in self.candidates()]

    def keep(self, name: str) -> None:
        """Let the form of candidate `name` be the artefact's region, and remove the other."""
        kept = self._forms[name.removesuffix(SPINNING)]
        for file in kept.iterdir():
            file.rename(self._folder / file.name)
        for folder in self._forms.values():
            shutil.rmtree(folder)

    def drop(self) -> None:
        """Remove all forms: something else is kept."""
        for folder in self._forms.values():
            shutil.rmtree(folder)

    def _opener(self, form: str, spinning: bool) -> Callable[[], Callable[[Call], dict[str, Array]]]:
        def opened() -> Callable[[Call], dict[str, Array]]:
            session = RegionSession(self._forms[form] / REGION, threads=self._threads, spinning=spinning)
            return region_run(session, self._ports)

        return opened
