"""The examples run, and say what they promise."""

from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"intaglio_example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_examples_are_tested() -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {one.stem for one in EXAMPLES.glob("*.py")} <= tested


def test_compile_and_generate(
    artifact: Any, built_before: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example("compile_and_generate").main(str(artifact.source), str(tmp_path / "model"))
    lines = capsys.readouterr().out.splitlines()
    assert "after" in lines[0]
    assert lines[-1] == "(3, 300)"
    assert (tmp_path / "model" / "artifact.json").is_file()


def test_batches(artifact: Any, capsys: pytest.CaptureFixture[str]) -> None:
    example("batches").main(str(artifact.source))
    lines = capsys.readouterr().out.splitlines()
    assert [" … " in line for line in lines[:6]] == [True] * 5 + [False]
    assert "64 rows cost" in lines[-2]
    assert lines[-1].startswith("(2, 300) (4, 3, ")


def test_export_onnx(artifact: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("export_onnx").main(str(artifact.folder), str(tmp_path / "onnx"))
    words = capsys.readouterr().out.replace(",", "").split()
    assert words[2] == words[-1]


@pytest.mark.slow
def test_explain_and_report(artifact: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its plan needs kernels of its own, so that code is built anew."""
    example("explain_and_report").main(str(artifact.source), str(tmp_path / "report.html"))
    shown = capsys.readouterr().out
    assert "round_weights at layers.0.mlp.down_proj" in shown
    assert "lossy on purpose" in shown
    assert "runs in layers.0.self_attn.qkv_proj" in shown
    assert "'kl':" in shown
    assert "<svg" in (tmp_path / "report.html").read_text()


def test_onnx_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = """<ir_version: 8, opset_import: ["": 17]> layer (float[rows, 4] x) => (float[rows, 4] y)
        <float[4, 4] w = {4, 1, 0, 0, 1, 4, 1, 0, 0, 1, 4, 1, 0, 0, 1, 4}> { p = MatMul(x, w) y = Relu(p) }"""
    model = tmp_path / "layer.onnx"
    model.write_bytes(onnx.parser.parse_model(layer).SerializeToString())
    example("onnx_file").main(str(model), str(tmp_path / "model"))
    assert capsys.readouterr().out == "y: [2, 4], largest difference 0.0e+00\n"
    assert (tmp_path / "model" / "artifact.json").is_file()


def test_quantized_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = """<ir_version: 8, opset_import: ["": 17]>
        layer (float[rows, 2, 4, 4] x) => (float[rows, 2, 2, 2] y)
        <float[2, 2, 3, 3] w = {1, 2, 1, 0, 3, 0, 1, 2, 1, 2, 0, 2, 1, 0, 1, 2, 0, 2,
        0, 1, 0, 1, 4, 1, 0, 1, 0, 3, 0, 3, 0, 3, 0, 3, 0, 3}> { y = Conv(x, w) }"""
    model, inputs = tmp_path / "layer.onnx", tmp_path / "inputs.npy"
    model.write_bytes(onnx.parser.parse_model(layer).SerializeToString())
    np.save(inputs, np.random.default_rng(0).standard_normal((12, 2, 4, 4)).astype(np.float32))
    example("quantized_graph").main(str(model), str(inputs))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("kept: ")
    assert ("int8" in lines[0]) == any("cosine of y" in one for one in lines[1:])


def test_huggingface_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    helpers = EXAMPLES.parent / "tests" / "helpers"
    families = runpy.run_path(str(helpers / "families.py"))["families"]()
    folders = runpy.run_path(str(helpers / "huggingface_folders.py"))
    config = families["llama"]()
    config.max_position_embeddings = 256
    folders["write_random_model"](config, tmp_path)
    folders["write_tokenizer"](tmp_path, config.vocab_size)
    example("huggingface_folder").main(str(tmp_path))
    assert "tokens)" in capsys.readouterr().out


def test_torch_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("torch_module").main(str(tmp_path / "model"))
    assert capsys.readouterr().out == "[5, 10], largest difference below 1e-4: True\n"
    assert (tmp_path / "model" / "artifact.json").is_file()


def test_graph_partition(capsys: pytest.CaptureFixture[str]) -> None:
    example("graph_partition").main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "(1, 3, 64, 64) → (1, 10)"
    assert any(one.startswith("native: ") for one in lines[3:])
