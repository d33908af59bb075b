"""From any other traced graph to its artefact's files: what runs it fastest, by measurement."""

from __future__ import annotations

import json
from pathlib import Path

import onnx_ir as ir

from intaglio.compiler.account import Account
from intaglio.compiler.building import source_of, tokenizer_json
from intaglio.compiler.folders import disk_errors
from intaglio.compiler.frontends.traced import Traced
from intaglio.compiler.graph_candidates import NORMALISED, ORIGINAL, SPINNING, WholeGraphs
from intaglio.compiler.graph_passes import normalized_graph, treated_graph
from intaglio.compiler.graph_ports import GraphPorts
from intaglio.compiler.graph_sites import operators_of, sites_of
from intaglio.compiler.integer_graphs import IntegerGraphs
from intaglio.compiler.ir import Dump
from intaglio.compiler.manifest import TOKENIZER, Manifest
from intaglio.compiler.native_candidates import NATIVE, NativeCandidates, native_calls
from intaglio.compiler.partition import Partition
from intaglio.compiler.partition_inputs import arrays_of_examples, made_call
from intaglio.compiler.partition_search import search
from intaglio.compiler.plan import GRAPH_PLAN
from intaglio.compiler.progress import Recorder
from intaglio.compiler.settings import Settings

PHASES = ("trace", "normalize", "quantize", "weights", "partition")


def build_graph(settings: Settings, traced: Traced, folder: Path, step: Recorder, dump: Dump) -> Manifest:
    """Compile `traced`, which has been dumped, into `folder`; the manifest but for the costs of all this."""
    step.expect(PHASES)
    ports = GraphPorts.of(traced.model, traced.call)
    calls = arrays_of_examples(ports, settings.examples) if settings.examples else made_call(ports)
    original = traced.model.clone()

    with step.phase("normalize"):
        normalized = normalized_graph(traced)
        dump("normalize", normalized.model)

    with step.phase("quantize"):
        settings, treated = treated_graph(normalized, settings)
        integers = IntegerGraphs(treated.model, ports, calls, settings, folder)
        dump("quantize", treated.model)

    with step.phase("weights"), disk_errors("compile", folder):
        exact = settings.chosen == GRAPH_PLAN
        whole = WholeGraphs(folder, ports, settings.threads)
        whole.write(original if exact else None, treated.model)
        (folder / TOKENIZER).write_text(tokenizer_json(traced), encoding="utf-8")

    with step.phase("partition"), disk_errors("compile", folder):
        native = NativeCandidates(treated.model, native_calls(ports, settings, calls), settings, folder)
        others = [*whole.candidates(), *integers.candidates()]
        found = search(others, native, calls, NORMALISED, settings.threads)
        native.keep(found.kept)
        rounded = integers.keep(found.kept)
        if rounded is None:
            kept = _kept_floats(whole, found, original, treated.model)
        else:
            whole.drop()
            kept = rounded
        kernels = native.kernels(found.kept)
        sites, nodes = sites_of(kept, ports, settings.chosen, kernels)

    # A native program runs the treated graph; calls of other shapes run in the region.
    return Manifest(
        source=source_of(traced.source),
        architecture={},
        target=json.loads(settings.target.to_json()),
        plan=json.loads(settings.chosen.to_json()),
        workload={},
        sites=sites,
        account=Account.of((normalized, treated, integers.account(found))),
        kind="graph",
        ports=ports.to_data(),
        nodes=nodes,
        operators=operators_of(kept),
        partition={**found.to_data(), "kernels": kernels},
    )


def _kept_floats(whole: WholeGraphs, found: Partition, original: ir.Model, treated: ir.Model) -> ir.Model:
    """Keep the region that a float candidate or calls of other shapes run; the graph that is run."""
    region = found.fastest_of(whole.names())
    whole.keep(region)
    runs_original = NATIVE not in found.kept and region.removesuffix(SPINNING) == ORIGINAL
    return original if runs_original else treated
