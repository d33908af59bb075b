"""From a model to an artefact folder: traced, then compiled as a decoder or as a graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from intaglio.compiler.artifact import sha256, write_manifest
from intaglio.compiler.folders import disk_errors
from intaglio.compiler.frontends import traced as frontends
from intaglio.compiler.frontends.traced import Traced
from intaglio.compiler.frontends.tracing import trace
from intaglio.compiler.ir import Dump
from intaglio.compiler.manifest import Manifest, Source
from intaglio.compiler.memory import PeakMemory
from intaglio.compiler.progress import ProgressListener, Recorder
from intaglio.compiler.settings import Settings


def build(settings: Settings, folder: Path, listener: ProgressListener | None) -> Manifest:
    """Compile into `folder`, which exists and is empty; the manifest written there."""
    dump = CheckedDump(settings.dump)
    with PeakMemory() as memory:
        step = Recorder(memory, listener)
        with step.phase("trace"):
            traced = trace(settings.model, settings.tracing)
            dump("trace", traced.model)
        with memory.importing():
            rest = _rest_for(settings, traced)
        manifest = rest(settings, traced, folder, step, dump)
    complete = dataclasses.replace(
        manifest,
        padding=settings.tracing.padding,
        seconds=step.seconds,
        peak_memory_bytes=memory.bytes,
    )
    with disk_errors("compile", folder):
        return write_manifest(folder, complete)


class CheckedDump(Dump):
    """As in the IR's, with errors that name the option."""

    def __call__(self, phase: str, model: ir.Model) -> Path | None:
        """Write `model` as it stands after `phase`. Raises `ArtifactError`."""
        with disk_errors("compile (dump)", self._folder or Path()):
            return super().__call__(phase, model)


def source_of(source: frontends.Source) -> Source:
    """The source as a manifest records it."""
    if source.path is None:
        return Source(None, source.bytes, None, source.name)
    return Source(str(source.path.absolute()), source.bytes, sha256(source.path))


def tokenizer_json(traced: Traced) -> str:
    """The tokenizer's file."""
    return "null" if traced.tokenizer is None else traced.tokenizer.to_json()


def _rest_for(settings: Settings, traced: Traced) -> Callable[..., Manifest]:
    """What compiles this kind of model; each brings packages that the other does without."""
    if traced.architecture is None:
        from intaglio.compiler.graph_pipeline import build_graph

        settings.refuse_for_graphs()
        return build_graph
    from intaglio.compiler.pipeline import build_decoder

    settings.refuse_for_decoders()
    return build_decoder
