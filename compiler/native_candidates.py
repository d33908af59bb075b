"""Native programs as candidates: with all kernels, and with those of a kind given back to onnxruntime."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from intaglio.compiler.array_exchange import Array
from intaglio.compiler.errors import CodegenError, IntaglioError, UnsupportedModelError
from intaglio.compiler.graph_ports import GraphPorts
from intaglio.compiler.native_graph import ONE_THREAD, build_native, native_run
from intaglio.compiler.partition import Candidate
from intaglio.compiler.partition_timing import Call
from intaglio.compiler.settings import Settings

NATIVE = "native"
FREE = frozenset({"onnxruntime", "view"})  # what takes no kernel


def native_calls(ports: GraphPorts, settings: Settings, calls: Sequence[Call]) -> Sequence[Call]:
    """The calls that kernels are made for: none where nobody said of which sizes they will be."""
    fixed = all(
        port.shape is not None and all(isinstance(one, int) for one in port.shape)
        for port in ports.inputs.values()
    )
    return calls if settings.examples or fixed else ()


class NativeCandidates:
    """The programs that were built below `folder`."""

    def __init__(self, model: ir.Model, calls: Sequence[Call], settings: Settings, folder: Path) -> None:
        self._model, self._calls, self._settings, self._folder = model, calls, settings, folder
        self._built: dict[str, Path] = {}
        self._nodes: dict[str, dict[str, str]] = {}  # candidate → node → kind of kernel

    def candidates(self) -> list[Candidate]:
        """The program with every kernel that there is, on all threads and, for what is short, on one."""
        if not self._calls:
            return []
        found = [Candidate(NATIVE, self._opener(NATIVE, frozenset()))]
        if self._settings.threads > 1:
            found.append(Candidate(NATIVE + ONE_THREAD, self._alone))
        return found

    def _alone(self) -> Callable[[Call], Mapping[str, Array]]:
        if NATIVE not in self._nodes:
            raise CodegenError("native program: it could not be built")
        return native_run(self._built[NATIVE], 1)

    def variant(self, without: frozenset[str]) -> Candidate:
        """The program that leaves kinds of kernels to onnxruntime."""
        name = f"{NATIVE} without {', '.join(sorted(without))}"
        return Candidate(name, self._opener(name, without))

    def kinds(self, fewest: int) -> list[str]:
        """Kinds of kernels that compute at least `fewest` nodes, most first."""
        found = Counter(kind for kind in self._nodes.get(NATIVE, {}).values() if kind not in FREE)
        return [kind for kind, count in found.most_common() if count >= fewest]

    def kernels(self, name: str) -> dict[str, str]:
        """Node → the kind of kernel that computes it in candidate `name`; empty for candidates of others."""
        return self._nodes.get(name.removesuffix(ONE_THREAD), {})

    def keep(self, name: str) -> None:
        """Move the files of candidate `name`, if it is one of these, into the artefact; remove all others."""
        kept = self._built.get(name.removesuffix(ONE_THREAD))
        if kept is not None:
            for file in kept.iterdir():
                file.rename(self._folder / file.name)
        for folder in self._built.values():
            shutil.rmtree(folder)

    def _opener(
        self, name: str, without: frozenset[str]
    ) -> Callable[[], Callable[[Call], Mapping[str, Array]]]:
        def opened() -> Callable[[Call], Mapping[str, Array]]:
            place = self._folder / f"native{len(self._built)}"
            self._built[name] = place
            place.mkdir()
            self._build(name, place, without)
            return native_run(place, self._settings.threads)

        return opened

    def _build(self, name: str, place: Path, without: frozenset[str]) -> None:
        try:
            lowered = build_native(self._model, self._calls, self._settings.target, place, without)
        except IntaglioError:
            raise
        except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            # The model still runs in onnxruntime; the reason stands in the table of candidates.
            raise CodegenError(f"native program: {error!r}; please report this") from error
        self._nodes[name] = lowered.nodes
        if not set(lowered.nodes.values()) - FREE:
            raise UnsupportedModelError("native program: no node of the graph has a kernel", ["all nodes"])
