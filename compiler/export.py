"""Export: the treated graph, with functions inlined, for any ONNX runtime."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from intaglio.compiler.artifact import sha256
from intaglio.compiler.errors import ArtifactError
from intaglio.compiler.folders import replaced_folder
from intaglio.compiler.frontends.frontend import TraceOptions
from intaglio.compiler.manifest import REGION, Manifest, Source
from intaglio.compiler.settings import Settings
from intaglio.compiler.workload import Workload
from intaglio.cost_models import Target

if TYPE_CHECKING:
    import onnx_ir as ir

    from intaglio.compiler.plan import Plan

MODEL, DATA = FILES = ("model.onnx", "model.weights")
PROVENANCE = "intaglio."  # before the keys of the model's metadata


def source_of(manifest: Manifest, operation: str) -> Path:
    """The file or folder that the model was compiled from.

    Raises `ArtifactError` where it is gone or has changed, or the model was never in a file.
    """
    source = manifest.source
    if source.path is None:
        raise ArtifactError(
            f"{operation}: the model was compiled from {source.description}, an object in memory, which an "
            "artefact does not hold: compile it again."
        )
    path = Path(source.path)
    if not path.exists():
        raise ArtifactError(
            f"{operation}: the source {path} is gone, and the graph is made from it: put it back"
            f"{', or say `against` which model' if operation == 'evaluate' else ''}."
        )
    other_size = path.is_file() and path.stat().st_size != source.bytes
    if other_size or sha256(path) != source.sha256:
        raise ArtifactError(
            f"{operation}: {path} has changed since the model was compiled: put the old file back."
        )
    return path


def export_onnx(manifest: Manifest, path: Path, *, round_activations: bool = False) -> Path:
    """Write `model.onnx` and its weights to the folder `path`; the path of the former.

    The graph is the canonical decoder of docs/architecture.md: `input_ids`, `position` and the caches in,
    `logits` of all positions and the updated caches out. Weights are on the compiled model's grid.
    Activations, keys and values are rounded, as the compiled model does, only with `round_activations`: two
    runtimes never add in the same order, a sum next to a rounding threshold falls to either side, and thirty
    layers make much of it.
    Raises `ArtifactError`.
    """
    from onnx_ir.passes.common import InlinePass, RemoveUnusedFunctionsPass, RemoveUnusedOpsetsPass

    from intaglio.compiler.preview import treated_graph

    settings = settings_of(manifest, source_of(manifest, "export"))
    if not round_activations:
        exact = dataclasses.replace(without_rounding(settings.chosen), cache="fp32")
        settings = dataclasses.replace(settings, plan=exact)
    _, model, _ = treated_graph(settings)
    InlinePass()(model)
    RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]  # onnx-ir leaves its __init__ untyped
    RemoveUnusedOpsetsPass()(model)
    return _write(model, path, manifest.source, settings.chosen)


def export_graph(manifest: Manifest, artifact: Path, path: Path, *, round_activations: bool = False) -> Path:
    """Write the graph of the compiled model in `artifact`, as `export_onnx` does; the path of `model.onnx`.

    Inputs and outputs keep their names. Operators are the standard's, but for those of other domains that
    the model brought along. Raises `ArtifactError`.
    """
    from intaglio.backends.onnxruntime import raise_region
    from intaglio.compiler.plan import Plan

    plan = Plan.from_json(json.dumps(manifest.plan))
    model = raise_region(artifact / REGION, round_activations=round_activations)
    return _write(model, path, manifest.source, plan if round_activations else without_rounding(plan))


def _write(model: ir.Model, path: Path, source: Source, plan: Plan) -> Path:
    import onnx_ir as ir

    model.metadata_props.update(provenance(source, plan))
    with replaced_folder(path, FILES, "export") as folder:
        ir.save(model, folder / MODEL, external_data=DATA)
    return path / MODEL


def settings_of(manifest: Manifest, source: Path) -> Settings:
    """What the model was compiled with."""
    from intaglio.compiler.plan import Plan

    return Settings(
        model=source,
        target=Target.from_json(json.dumps(manifest.target)),
        workload=Workload.from_json(manifest.workload),
        plan=Plan.from_json(json.dumps(manifest.plan)),
        context=manifest.context,
        dump=None,
        tracing=TraceOptions(padding=manifest.padding),
    )


def without_rounding(plan: Plan) -> Plan:
    """`plan` with activations left in floating point."""
    default, *sites = (
        dataclasses.replace(one, activations=None) for one in (plan.default, *plan.sites.values())
    )
    exact = dict(zip(plan.sites, sites, strict=True))
    return dataclasses.replace(plan, default=default, sites=exact)


def provenance(source: Source, plan: Plan) -> dict[str, str]:
    """Where an exported model comes from, for its metadata."""
    facts = {"source": source.name, "source_sha256": source.sha256, "plan": str(plan)}
    return {PROVENANCE + key: value for key, value in facts.items() if value is not None}
