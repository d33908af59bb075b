"""Exported graphs: exact in onnxruntime, refused where the source is not what it was."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import intaglio
from intaglio.backends.onnxruntime import OnnxRuntimeSession
from intaglio.backends.reference import ReferenceSession
from intaglio.compiler.artifact import read_manifest, sha256
from intaglio.compiler.compiled_model import CompiledModel
from intaglio.compiler.export import export_onnx
from intaglio.compiler.manifest import Source
from intaglio.compiler.reference_session import GraphSession

TOKENS = np.random.default_rng(1).integers(3, 300, size=25).tolist()


def manifest_of(artifact: Any, source: Path, plan: str) -> Any:
    manifest = read_manifest(artifact.folder)
    kept = Source(str(source), source.stat().st_size, sha256(source))
    return dataclasses.replace(manifest, source=kept, plan={"version": 1, "default": plan, "sites": {}})


@pytest.mark.parametrize("plan", ["keep", "keep:a16", "int4-g32-minimum", "int8-channel:a16", "fp32"])
@pytest.mark.parametrize(("blocks", "rounded"), [("Q4_0", False), ("Q4_1", False), ("Q4_1", True)])
def test_onnxruntime_computes_what_the_reference_computes(
    artifact: Any, tiny_gguf: Callable[..., Path], tmp_path: Path, plan: str, blocks: str, rounded: bool
) -> None:
    manifest = manifest_of(artifact, tiny_gguf(quantization=blocks), plan)
    path = export_onnx(manifest, tmp_path / "onnx", round_activations=rounded)
    onnx.checker.check_model(path)
    model = ir.load(path)
    assert len(model.functions) == 0
    assert list(model.opset_imports) == [""]
    found = GraphSession(model, OnnxRuntimeSession(model, threads=1)).score(TOKENS)
    wanted = GraphSession(model, ReferenceSession(model)).score(TOKENS)
    error = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    print(f"{plan} of {blocks}: largest error {error:.1e} of the largest logit")
    rounds = any(node.op_type == "Round" for node in model.graph)
    assert rounds == (rounded and not plan.endswith(("a16", "fp32")))
    # float32 sums in another order; rounded activations may fall on the other side of a bound.
    assert error < (5e-3 if rounds else 1e-5)


def test_the_export_computes_what_was_compiled(compiled: CompiledModel, tmp_path: Path) -> None:
    path = compiled.export(tmp_path / "onnx", round_activations=True)
    assert {one.name for one in path.parent.iterdir()} == {"model.onnx", "model.weights"}
    model = ir.load(path)
    found = GraphSession(model, OnnxRuntimeSession(model, threads=1)).score(TOKENS)
    # Queries and weights are rounded to bfloat16 as well in products, where the CPU has such.
    assert float(np.abs(found - compiled(TOKENS)).max() / np.abs(found).max()) < 4e-2
    assert model.metadata_props["intaglio.source_sha256"] == compiled.manifest.source.sha256


def test_an_older_export_is_replaced_and_other_files_are_not(compiled: CompiledModel, tmp_path: Path) -> None:
    first = compiled.export(tmp_path / "onnx").read_bytes()
    assert compiled.export(tmp_path / "onnx").read_bytes() == first
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    with pytest.raises(intaglio.ArtifactError, match="notes"):
        compiled.export(tmp_path / "mine")


def test_other_formats_are_refused(compiled: CompiledModel, tmp_path: Path) -> None:
    with pytest.raises(intaglio.OptionError, match="'tflite' is unknown"):
        compiled.export(tmp_path / "x", format="tflite")


@pytest.mark.parametrize("change", ["gone", "shorter", "other bytes"])
def test_the_source_must_be_what_it_was(artifact: Any, tmp_path: Path, change: str) -> None:
    source = Path(shutil.copy(artifact.source, tmp_path / "tiny.gguf"))
    manifest = manifest_of(artifact, source, "keep")
    content = source.read_bytes()
    if change == "gone":
        source.unlink()
    else:
        source.write_bytes(content[:-32] + (b"" if change == "shorter" else bytes(32)))
    with pytest.raises(intaglio.ArtifactError, match="is gone" if change == "gone" else "has changed"):
        export_onnx(manifest, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
