"""From any other traced graph to its artefact's files: one region that onnxruntime runs."""

from __future__ import annotations

import json
from pathlib import Path

from intaglio.backends.onnxruntime import write_region
from intaglio.compiler.account import Account
from intaglio.compiler.building import source_of, tokenizer_json
from intaglio.compiler.folders import disk_errors
from intaglio.compiler.frontends.traced import Traced
from intaglio.compiler.graph_passes import normalized_graph, treated_graph
from intaglio.compiler.graph_ports import GraphPorts
from intaglio.compiler.graph_sites import operators_of, sites_of
from intaglio.compiler.ir import Dump
from intaglio.compiler.manifest import REGION, TOKENIZER, Manifest
from intaglio.compiler.progress import Recorder
from intaglio.compiler.settings import Settings

PHASES = ("trace", "normalize", "quantize", "weights")


def build_graph(settings: Settings, traced: Traced, folder: Path, step: Recorder, dump: Dump) -> Manifest:
    """Compile `traced`, which has been dumped, into `folder`; the manifest but for the costs of all this."""
    step.expect(PHASES)
    ports = GraphPorts.of(traced.model, traced.call)

    with step.phase("normalize"):
        normalized = normalized_graph(traced)
        dump("normalize", normalized.model)

    with step.phase("quantize"):
        settings, treated = treated_graph(normalized, settings)
        dump("quantize", treated.model)
        sites, nodes = sites_of(treated.model, ports, settings.chosen)

    with step.phase("weights"), disk_errors("compile", folder):
        write_region(treated.model, folder, Path(REGION).stem)
        (folder / TOKENIZER).write_text(tokenizer_json(traced), encoding="utf-8")

    return Manifest(
        source=source_of(traced.source),
        architecture={},
        target=json.loads(settings.target.to_json()),
        plan=json.loads(settings.chosen.to_json()),
        workload={},
        sites=sites,
        account=Account.of((normalized, treated)),
        kind="graph",
        ports=ports.to_data(),
        nodes=nodes,
        operators=operators_of(treated.model),
    )
