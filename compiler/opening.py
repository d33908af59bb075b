"""Opening an artefact whose files have been verified: sessions over mapped weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from intaglio.compiler.compiled_model import CompiledModel
from intaglio.compiler.frontends.frontend import TraceOptions
from intaglio.compiler.manifest import LIBRARY, PROGRAM, REGION, WEIGHTS, Manifest

if TYPE_CHECKING:
    import onnx_ir as ir

    from intaglio.backends.onnxruntime import RegionSession
    from intaglio.backends.tvm import Program


def open_artifact(
    folder: Path,
    manifest: Manifest,
    threads: int,
    holder: tempfile.TemporaryDirectory[str] | None = None,
    original: Callable[[], ir.Model] | None = None,
) -> CompiledModel:
    """The model in `folder`, whose files have been verified; `holder` is kept alive with it.

    `original` traces the model again; left out, that is done from the recorded source.
    """
    if manifest.kind == "graph":
        return _opened_graph(folder, manifest, threads, holder, original)
    from intaglio.backends.tvm import NativeSession, Program
    from intaglio.compiler.compiled_decoder import CompiledDecoder

    program = Program.from_json((folder / PROGRAM).read_text(encoding="utf-8"))
    session = NativeSession(
        program,
        weights=folder / WEIGHTS,
        library=folder / LIBRARY,
        threads=threads,
        regions=_opened_regions(folder, program, threads),
    )
    return CompiledDecoder(folder, manifest, program, session, threads, holder)


def _opened_regions(folder: Path, program: Program, threads: int) -> list[RegionSession]:
    """The parts of a decoder that onnxruntime runs."""
    if not program.foreign:
        return []
    from intaglio.backends.onnxruntime import RegionSession

    return [RegionSession(folder / one.file, threads=threads) for one in program.foreign]


def _opened_graph(
    folder: Path,
    manifest: Manifest,
    threads: int,
    holder: tempfile.TemporaryDirectory[str] | None,
    original: Callable[[], ir.Model] | None,
) -> CompiledModel:
    from intaglio.backends.onnxruntime import RegionSession
    from intaglio.compiler.compiled_graph import CompiledGraph
    from intaglio.compiler.graph_candidates import spins

    def region() -> RegionSession:
        return RegionSession(folder / REGION, threads=threads, spinning=spins(manifest))

    traced = original or _traced_from_source(manifest)
    if PROGRAM not in manifest.files:
        return CompiledGraph(folder, manifest, region(), None, threads, traced, holder)
    from intaglio.compiler.native_graph import open_native, threads_for

    native = open_native(folder, threads_for(manifest, threads))
    return CompiledGraph(folder, manifest, region, native, threads, traced, holder)


def _traced_from_source(manifest: Manifest) -> Callable[[], ir.Model]:
    """What traces the recorded source again. It raises `ArtifactError` where that is gone or has changed."""

    def traced() -> ir.Model:
        from intaglio.compiler.export import source_of
        from intaglio.compiler.frontends.tracing import trace

        return trace(source_of(manifest, "bench"), TraceOptions(padding=manifest.padding)).model

    return traced
