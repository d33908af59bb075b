"""Export: the treated graph, with functions inlined, for any ONNX runtime."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from intaglio.compiler.artifact import Manifest, Source, sha256
from intaglio.compiler.errors import ArtifactError
from intaglio.compiler.folders import replaced_folder
from intaglio.compiler.settings import Settings
from intaglio.compiler.workload import Workload
from intaglio.cost_models import Target

if TYPE_CHECKING:
    from intaglio.compiler.plan import Plan

MODEL, DATA = FILES = ("model.onnx", "model.weights")
PROVENANCE = "intaglio."  # before the keys of the model's metadata


def source_of(manifest: Manifest, operation: str) -> Path:
    """The file that the model was compiled from; raises `ArtifactError` where it is gone or has changed."""
    source = manifest.source
    path = Path(source.path)
    if not path.is_file():
        raise ArtifactError(
            f"{operation}: the source {path} is gone, and the graph is made from it: put it back"
            f"{', or say `against` which model' if operation == 'evaluate' else ''}."
        )
    if path.stat().st_size != source.bytes or sha256(path) != source.sha256:
        raise ArtifactError(
            f"{operation}: {path} has changed since the model was compiled: put the old file back."
        )
    return path


def export_onnx(manifest: Manifest, path: Path, *, round_activations: bool = False) -> Path:
    """Write `model.onnx` and its weights to the folder `path`; the path of the former.

    The graph is the canonical decoder of docs/architecture.md: `input_ids`, `position` and the caches in,
    `logits` of all positions and the updated caches out. Weights are on the compiled model's grid.
    Activations are rounded, as the compiled model does, only with `round_activations`: two runtimes never
    add in the same order, a sum next to a rounding threshold falls to either side, and thirty layers make
    much of it.
    Raises `ArtifactError`.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import InlinePass, RemoveUnusedFunctionsPass, RemoveUnusedOpsetsPass

    from intaglio.compiler.preview import treated_graph

    settings = settings_of(manifest, source_of(manifest, "export"))
    if not round_activations:
        settings = dataclasses.replace(settings, plan=without_rounding(settings.plan))
    _, model, _ = treated_graph(settings)
    InlinePass()(model)
    RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]  # onnx-ir leaves its __init__ untyped
    RemoveUnusedOpsetsPass()(model)
    model.metadata_props.update(provenance(manifest.source, settings.plan))
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
    )


def without_rounding(plan: Plan) -> Plan:
    """`plan` with activations left in floating point."""
    default, *sites = (
        dataclasses.replace(one, activations=None) for one in (plan.default, *plan.sites.values())
    )
    return dataclasses.replace(plan, default=default, sites=dict(zip(plan.sites, sites, strict=True)))


def provenance(source: Source, plan: Plan) -> dict[str, str]:
    """Where an exported model comes from, for its metadata."""
    facts = {"source": Path(source.path).name, "source_sha256": source.sha256, "plan": str(plan)}
    return {PROVENANCE + key: value for key, value in facts.items()}
