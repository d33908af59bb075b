"""From a traced decoder to its artefact's files, step by step; see docs/architecture.md."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from intaglio.backends.onnxruntime import write_region
from intaglio.backends.tvm import build_library
from intaglio.backends.tvm.lower import Lowered, lower
from intaglio.backends.tvm.sites import Site
from intaglio.compiler.account import Account
from intaglio.compiler.building import source_of, tokenizer_json
from intaglio.compiler.folders import disk_errors
from intaglio.compiler.frontends.traced import DecoderArchitecture, Traced
from intaglio.compiler.ir import Dump
from intaglio.compiler.manifest import LIBRARY, PROGRAM, TOKENIZER, WEIGHTS, Manifest
from intaglio.compiler.membership import makers, members
from intaglio.compiler.progress import Recorder
from intaglio.compiler.settings import Settings
from intaglio.passes.fuse import fuse
from intaglio.passes.linears import find_linears
from intaglio.passes.normalize import normalize
from intaglio.passes.quantize import apply_treatments
from intaglio.passes.quantize.coarsen_prefill import COARSEN_PREFILL
from intaglio.passes.result import PassResult

PHASES = ("trace", "normalize", "quantize", "fuse", "lower", "weights", "code")


def build_decoder(
    settings: Settings,
    traced: Traced,
    folder: Path,
    step: Recorder,
    dump: Dump,
) -> Manifest:
    """Compile the decoder `traced` into `folder`; the manifest but for the costs of all this."""
    architecture = traced.architecture
    assert architecture is not None, "a decoder has sizes"
    step.expect(PHASES)
    context = settings.context_for(architecture)

    with step.phase("normalize"):
        normalized = normalize(traced.model, expected=traced.expected, capacity=context)
        dump("normalize", normalized.model)

    with step.phase("quantize"):
        linears = find_linears(normalized.model)
        quantized = {one.site for one in linears if one.weight.quantized}
        sites = [one.site for one in linears]
        settings = settings.with_plan_for(sites, decoder=True, quantized=quantized)
        treated = apply_treatments(normalized.model, *settings.chosen.treatments)
        dump("quantize", treated.model)

    with step.phase("fuse"):
        before = makers(treated.model.graph)
        fused = fuse(treated.model)
        nodes = members(before, fused.model.graph)
        dump("fuse", fused.model)

    with step.phase("lower"):
        chunk = settings.chunk_for(context)
        batch = settings.workload_for(context).batch
        coarse = frozenset(one.site for one in treated.applied if one.pass_name == COARSEN_PREFILL)
        lowered = lower(fused.model, capacity=context, chunk=chunk, batch=batch, coarse=coarse)

    # Code is generated in a process of its own, meanwhile.
    with ThreadPoolExecutor(1) as pool:
        code = pool.submit(build_library, lowered.program, settings.target, folder / LIBRARY)
        with step.phase("weights"), disk_errors("compile", folder):
            lowered.write_weights(folder / WEIGHTS)
            for region, file in zip(lowered.foreign, lowered.program.foreign, strict=True):
                write_region(region.model, folder, Path(file.file).stem)
            (folder / PROGRAM).write_text(lowered.program.to_json(), encoding="utf-8")
            (folder / TOKENIZER).write_text(tokenizer_json(traced), encoding="utf-8")
        with step.phase("code"):
            code.result()

    # Nodes that no function holds, and that are no index arithmetic either, are sites of their own.
    nodes |= {one.site: one.site for one in lowered.sites if nodes.get(one.site) == ""}
    manifest = _manifest(settings, traced, architecture, lowered, (normalized, treated, fused))
    return dataclasses.replace(manifest, context=context, nodes=nodes)


def _manifest(
    settings: Settings,
    traced: Traced,
    architecture: DecoderArchitecture,
    lowered: Lowered,
    results: Sequence[PassResult],
) -> Manifest:
    return Manifest(
        source=source_of(traced.source),
        architecture=dataclasses.asdict(architecture),
        target=json.loads(settings.target.to_json()),
        plan=json.loads(settings.chosen.to_json()),
        workload=dataclasses.asdict(settings.workload_for(lowered.program.capacity)),
        threads=settings.threads,
        sites=tuple(_site(one) for one in lowered.sites),
        account=Account.of(results),
    )


def _site(site: Site) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(site)))
    return values
