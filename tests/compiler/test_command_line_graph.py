"""The command line on graphs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from intaglio.compiler.cli import main

INPUTS = {"x": np.ones((2, 64), np.float32), "ids": np.arange(2)}


@pytest.fixture
def source(make_net: Callable[..., ir.Model], tmp_path: Path) -> Path:
    ir.save(make_net(), tmp_path / "net.onnx")
    np.savez(tmp_path / "inputs.npz", **INPUTS)
    return tmp_path / "net.onnx"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*arguments: object) -> str:
        assert main([str(one) for one in arguments]) == 0
        shown = capsys.readouterr()
        assert shown.err == ""
        return shown.out

    return call


def test_a_graph_goes_through_every_command(source: Path, command: Callable[..., str]) -> None:
    folder, one_thread = source.parent / "out", ("--threads", "1")
    compiled = json.loads(
        command("compile", source, "-o", folder, "--plan", "int8-g32", "--json", *one_thread)
    )
    assert compiled["kind"] == "graph"
    assert compiled["ports"]["inputs"]["x"] == {"dtype": "float32", "shape": ["batch", 64]}
    assert "context" not in compiled

    arguments = ("--inputs", source.parent / "inputs.npz", "--output", source.parent / "found.npz")
    values = json.loads(command("run", folder, *arguments, "--json", *one_thread))
    assert values["outputs"]["y"] == {"dtype": "float32", "shape": [2, 33]}
    with np.load(source.parent / "found.npz") as found:
        assert set(found) == {"y", "hidden"}
        assert found["y"].shape == (2, 33)
    assert "y: float32 [2, 33]" in command("run", folder, *arguments, *one_thread)

    once = ("--rounds", "1", *one_thread)
    measured = command("bench", folder, "--inputs", source.parent / "inputs.npz", *once)
    assert "x [2, 64]" in measured
    assert "times as fast" in measured
    assert json.loads(command("bench", folder, "--json", *once))["shapes"] == {"x": [1, 64], "ids": [1]}

    assert "MatMulNBits" in command("explain", folder, "layers.0.dense", *one_thread)
    assert json.loads(command("report", folder, "--json", *one_thread))["operators"]["MatMul"] == 3
    exported = json.loads(command("export", folder, "-o", source.parent / "onnx", "--json", *one_thread))
    assert Path(exported["path"]).is_file()
    command("compile", source, "-o", folder, *one_thread)  # over the older one


def test_looking_before_building(source: Path, command: Callable[..., str]) -> None:
    seen = json.loads(
        command("compile", source, "--dry-run", "--plan", "keep, layers.1.dense=int4-g32", "--json")
    )
    assert seen["context"] is None
    assert {one["site"]: one["treatment"] for one in seen["sites"]} == {
        "layers.0.dense": "keep:a8g32",
        "layers.1.dense": "int4-g32:a8g32",
        "layers.2.dense": "keep:a8g32",
    }
    assert "context" not in command("compile", source, "--dry-run")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "{folder}", "hello", "--chat"], "--chat, a prompt without effect"),
        (["run", "{folder}"], "give --inputs and --output"),
        (["run", "{folder}", "--inputs", "{folder}/region.onnx", "--output", "o.npz"], "is no .npz file"),
        (["run", "{folder}", "--inputs", "none.npz", "--output", "o.npz"], "none.npz is no .npz file"),
        (["run", "{folder}", "--inputs", "{inputs}", "--output", "{folder}/no/o.npz"], "cannot be written"),
        (["evaluate", "{folder}"], "no language model that generates"),
        (["bench", "{folder}", "--prefill", "3"], "prefill and decode have no effect"),
        (["explain", "{folder}", "layers.9"], "there is no 'layers.9'"),
        (["report", "{folder}", "--recompile"], "recompile has no effect"),
        (["compile", "{source}", "-o", "{folder}/../x", "--context", "3"], "context without effect"),
        (["compile", "{source}", "-o", "{folder}/../x", "--padding"], "padding has no effect on ONNX"),
        (["compile", "{source}", "--dry-run", "--dump", "x"], "--dump has no effect with --dry-run"),
    ],
)
def test_refusals(
    arguments: list[str], message: str, net_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "inputs.npz", **INPUTS)
    places: dict[str, Any] = {
        "folder": net_folder,
        "inputs": tmp_path / "inputs.npz",
        "source": net_folder.parent / "net.onnx",
    }
    assert main([one.format(**places) for one in arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err


def test_language_models_take_no_arrays(artifact: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(artifact.folder)
    for arguments, message in (
        (
            ["run", folder, "x", "--inputs", "x.npz"],
            "--inputs and --output have no effect on language models",
        ),
        (["run", folder], "needs a prompt"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
