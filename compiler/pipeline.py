"""The way from a model file to an artefact folder, step by step; see docs/architecture.md."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import onnx_ir as ir

from intaglio.backends.tvm import build_library
from intaglio.backends.tvm.lower import Lowered, Site, lower
from intaglio.compiler.account import Account
from intaglio.compiler.artifact import (
    LIBRARY,
    PROGRAM,
    TOKENIZER,
    WEIGHTS,
    Manifest,
    Source,
    sha256,
    write_manifest,
)
from intaglio.compiler.folders import disk_errors
from intaglio.compiler.frontends.traced import Traced
from intaglio.compiler.frontends.tracing import trace
from intaglio.compiler.ir import Dump
from intaglio.compiler.membership import makers, members
from intaglio.compiler.memory import PeakMemory
from intaglio.compiler.progress import ProgressListener, Recorder
from intaglio.compiler.settings import Settings
from intaglio.passes.fuse import fuse
from intaglio.passes.normalize import normalize
from intaglio.passes.quantize import apply_treatments
from intaglio.passes.result import PassResult

PHASES = ("trace", "normalize", "quantize", "fuse", "lower", "weights", "code")


def build(settings: Settings, folder: Path, listener: ProgressListener | None) -> Manifest:
    """Compile into `folder`, which exists and is empty; the manifest written there."""
    dump = _Dump(settings.dump)
    with PeakMemory() as memory:
        step = Recorder(memory, PHASES, listener)

        with step.phase("trace"):
            traced = trace(settings.model)
            assert traced.architecture is not None
            context = settings.context_for(traced.architecture)
            dump("trace", traced.model)

        with step.phase("normalize"):
            normalized = normalize(traced.model, expected=traced.expected, capacity=context)
            dump("normalize", normalized.model)

        with step.phase("quantize"):
            treated = apply_treatments(normalized.model, settings.plan.sites, settings.plan.default)
            dump("quantize", treated.model)

        with step.phase("fuse"):
            before = makers(treated.model.graph)
            fused = fuse(treated.model)
            nodes = members(before, fused.model.graph)
            dump("fuse", fused.model)

        with step.phase("lower"):
            chunk = settings.chunk_for(context)
            lowered = lower(fused.model, capacity=context, chunk=chunk)

        with step.phase("weights"), disk_errors("compile", folder):
            lowered.write_weights(folder / WEIGHTS)
            (folder / PROGRAM).write_text(lowered.program.to_json(), encoding="utf-8")
            (folder / TOKENIZER).write_text(_tokenizer_json(traced), encoding="utf-8")

        with step.phase("code"):
            build_library(lowered.program, settings.target, folder / LIBRARY)

    manifest = dataclasses.replace(
        _manifest(settings, traced, lowered, (normalized, treated, fused)),
        context=context,
        nodes=nodes,
        seconds=step.seconds,
        peak_memory_bytes=memory.bytes,
    )
    with disk_errors("compile", folder):
        return write_manifest(folder, manifest)


class _Dump(Dump):
    """As in the IR's, with errors that name the option."""

    def __call__(self, phase: str, model: ir.Model) -> Path | None:
        with disk_errors("compile (dump)", self._folder or Path()):
            return super().__call__(phase, model)


def _tokenizer_json(traced: Traced) -> str:
    return "null" if traced.tokenizer is None else traced.tokenizer.to_json()


def _manifest(
    settings: Settings, traced: Traced, lowered: Lowered, results: Sequence[PassResult]
) -> Manifest:
    assert traced.source.path is not None, "decoders come from files"
    source = Source(traced.source.name, traced.source.bytes, sha256(traced.source.path))
    return Manifest(
        source=source,
        architecture=dataclasses.asdict(cast(Any, traced.architecture)),
        target=json.loads(settings.target.to_json()),
        plan=json.loads(settings.plan.to_json()),
        workload=dataclasses.asdict(settings.workload_for(lowered.program.capacity)),
        sites=tuple(_site(one) for one in lowered.sites),
        account=Account.of(results),
    )


def _site(site: Site) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(site)))
    return values
