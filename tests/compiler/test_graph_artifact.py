"""Compiled graphs on disk: saved, loaded, tampered with, exported, and how they explain themselves."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

import intaglio
from intaglio.compiler.artifact import read_manifest, write_manifest
from intaglio.compiler.compiled_graph import CompiledGraph
from intaglio.compiler.explain import known_names

RANDOM = np.random.default_rng(2)
INPUTS = {"x": RANDOM.standard_normal((5, 64), np.float32), "ids": np.arange(5)}


@pytest.fixture
def copied(net_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(net_folder, tmp_path / "copied"))


def test_the_files_are_those_of_the_manifest(net_folder: Path) -> None:
    manifest = read_manifest(net_folder)
    assert manifest.kind == "graph"
    assert set(manifest.files) == {"region.onnx", "region.weights", "tokenizer.json"}
    assert {one.name for one in net_folder.iterdir()} == {"artifact.json", *manifest.files}


def test_int8_weights_take_a_quarter(net: CompiledGraph) -> None:
    stored = (net.folder / "region.weights").stat().st_size
    floats = 4 * (160 * 64 + 160 * 160 + 33 * 160)
    assert stored < 0.45 * floats  # codes, scales, ends of pages


@pytest.mark.parametrize("name", ["region.onnx", "region.weights", "tokenizer.json"])
def test_a_changed_file_is_refused(copied: Path, name: str) -> None:
    content = bytearray((copied / name).read_bytes())
    content[-1] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(intaglio.TamperedArtifactError, match=name):
        intaglio.load(copied)


def test_a_manifest_cannot_lead_outside(copied: Path) -> None:
    manifest = read_manifest(copied)
    outside = dataclasses.replace(manifest, files={**manifest.files, "../net.onnx": "0" * 64})
    (copied / "artifact.json").write_text(outside.to_json())
    with pytest.raises(intaglio.TamperedArtifactError, match=r"'\.\./net\.onnx' lies outside"):
        intaglio.load(copied)


def test_what_a_graph_needs_must_be_listed(copied: Path) -> None:
    (copied / "region.onnx").unlink()
    write_manifest(copied, read_manifest(copied))
    with pytest.raises(intaglio.TamperedArtifactError, match=r"region\.onnx is not listed"):
        intaglio.load(copied)


def test_a_graph_has_no_code_to_recompile(net_folder: Path) -> None:
    with pytest.raises(intaglio.OptionError, match="recompile has no effect"):
        intaglio.load(net_folder, recompile=True)


def test_a_graph_runs_on_every_machine(copied: Path) -> None:
    manifest = read_manifest(copied)
    target = {**manifest.target, "features": ["avx4096"]}
    write_manifest(copied, dataclasses.replace(manifest, target=target))
    with intaglio.load(copied, threads=1) as loaded:
        assert loaded(INPUTS)["y"].shape == (5, 33)


def test_a_graph_can_be_saved_over_a_decoder(net: CompiledGraph, copied: Path, tmp_path: Path) -> None:
    """Whatever version an older artefact has, its files are known from its manifest."""
    old = tmp_path / "old"
    old.mkdir()
    (old / "artifact.json").write_text(
        json.dumps({"format": 1, "files": {"weights.bin": "", "program.so": ""}})
    )
    (old / "weights.bin").touch()
    assert {one.name for one in net.save(old).iterdir()} == {one.name for one in copied.iterdir()}
    (copied / "diary.txt").touch()
    with pytest.raises(intaglio.ArtifactError, match="diary"):
        net.save(copied)


@pytest.mark.parametrize("round_activations", [False, True])
@pytest.mark.parametrize(
    "plan", ["keep:a16", "int8-g32", "int4-g32-asymmetric", "int4-g64-minimum", "int8-channel:a8g160"]
)
def test_an_export_is_standard_and_the_same(
    make_net: Callable[..., ir.Model], plan: str, round_activations: bool, tmp_path: Path
) -> None:
    plan = f"{plan}, layers.0.dense=keep:a16" if plan.endswith("160") else plan
    with intaglio.compile(make_net(), plan=plan, threads=1) as compiled:
        wanted = compiled(INPUTS)
        path = compiled.export(tmp_path / "onnx", round_activations=round_activations)
    model = ir.load(path)
    assert {node.domain for node in model.graph} == {""}
    assert not model.functions
    assert set(model.opset_imports) == {""}
    assert model.metadata_props["intaglio.source"] == "onnx_ir.Model net"
    session = onnxruntime.InferenceSession(path)
    assert [one.name for one in session.get_inputs()] == ["x", "ids"]
    found = dict(zip(("y", "hidden"), session.run(["y", "hidden"], INPUTS), strict=True))
    exact = round_activations or plan == "keep:a16"
    for name, one in wanted.items():
        error = np.linalg.norm(found[name] - one) / np.linalg.norm(one)
        assert error < (1e-5 if exact else 0.03)
        assert exact or error > 1e-5


def test_an_export_needs_no_source(copied: Path, tmp_path: Path) -> None:
    with intaglio.load(copied, threads=1) as loaded:
        assert loaded.export(tmp_path / "onnx").is_file()
        with pytest.raises(intaglio.OptionError, match="tflite"):
            loaded.export(tmp_path / "onnx", "tflite")


def test_a_source_that_is_gone_is_told(make_net: Callable[..., ir.Model], tmp_path: Path) -> None:
    ir.save(make_net(), tmp_path / "net.onnx")
    with intaglio.compile(tmp_path / "net.onnx", threads=1) as compiled:
        path = compiled.save(tmp_path / "compiled")
    (tmp_path / "net.onnx").unlink()
    with intaglio.load(path, threads=1) as loaded:
        measured = loaded.bench(rounds=1)
    assert measured.speedup is None
    assert "net.onnx is gone" in measured.note
    with intaglio.compile(make_net(), threads=1) as compiled:
        assert compiled.bench(rounds=1).speedup is not None  # the model is at hand
        path = compiled.save(tmp_path / "compiled")
    with intaglio.load(path, threads=1) as loaded:
        assert "an object in memory" in loaded.bench(rounds=1).note


def test_every_node_and_site_is_explained(net: CompiledGraph) -> None:
    for name in known_names(net.manifest):
        assert len(net.explain(name).to_text().splitlines()) > 1
    operators = net.manifest.operators
    assert set(operators) == set(net.manifest.nodes)
    assert {"Add", "Relu", "MatMul", "Gather", "intaglio.QuantizeActivation"} <= set(operators.values())


def test_a_region_tells_what_is_handed_over(net: CompiledGraph) -> None:
    text = net.explain("region").to_text()
    assert "x float32[batch, 64] (256 × batch bytes), ids int64[batch] (8 × batch bytes)" in text
    assert "crossings 2" in text


def test_a_node_tells_why_it_is_where_it_is(net: CompiledGraph) -> None:
    relu = net.explain("layers.0.relu")
    assert (
        "operator Relu, run by onnxruntime: onnxruntime, normalised took 1.00 × the time of" in relu.to_text()
    )
    assert [one["site"] for one in relu.sites] == ["region"]
    layer = net.explain("layers.1.dense")
    assert "operator MatMul, run by onnxruntime: onnxruntime, normalised took" in layer.to_text()
    assert "relative Frobenius error" in layer.to_text()
    assert layer.sites[0]["kernel"] == "MatMulNBits, 8 bits in blocks of 32, activations rounded to int8"
    assert layer.sites[0]["treatment"] == "int8-g32:a8g32"
    assert json.loads(json.dumps(layer.to_json()))["operator"] == layer.operator
    with pytest.raises(intaglio.OptionError, match=r"names near it: .*layers\.1\.dense"):
        net.explain("layers.1.dnse")


def test_the_report_tells_everything(net: CompiledGraph, tmp_path: Path) -> None:
    report = net.report
    text = report.to_text()
    for part in (
        "net.onnx",
        "int8-g32:a8g32",
        "x float32[batch, 64]",
        "layers.*.dense",
        "Where the weights are",
    ):
        assert part in text
    values = json.loads(json.dumps(report.to_json()))
    assert values["operators"]["MatMul"] == 3
    assert [one["name"] for one in values["sites"]] == [
        "region",
        *(f"layers.{index}.dense" for index in range(3)),
    ]
    page = report.to_html(tmp_path / "report.html").read_text()
    assert not re.search(r"(src|href)=|@import|url\(", page)
    assert "Share of bytes by site" in page
    assert "decode" not in page


def test_sites_are_named_in_order(net: CompiledGraph) -> None:
    assert net.sites == ("region", "layers.0.dense", "layers.1.dense", "layers.2.dense")
    assert net.tokenizer is None
    assert net.artifact_bytes == sum(one.stat().st_size for one in net.folder.iterdir())
