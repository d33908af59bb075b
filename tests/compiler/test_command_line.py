"""The command line without a compiled model: arguments, errors, what can be seen before building."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from intaglio.compiler.cli import COMMANDS, main, parser

TINY = ("--prefill", "20", "--decode", "10")


def test_the_commands() -> None:
    names = [one.__name__.rpartition(".")[2] for one in COMMANDS]
    assert names == ["compile", "run", "bench", "evaluate", "explain", "report", "export", "doctor"]


@pytest.mark.parametrize("command", [one.__name__.rpartition(".")[2] for one in COMMANDS])
def test_every_command_has_json_and_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["compile", "m.gguf"],
        ["compile", "m.gguf", "-o", "x", "--dry-run"],
        ["compile", "m.gguf", "-o", "x", "--optimise"],
        ["bench", "folder", "--prefill", "many"],
        ["export", "folder", "-o", "x", "--format", "tflite"],
    ],
)
def test_wrong_arguments_end_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: intaglio" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compile", "nowhere.gguf", "--dry-run"], "there is no nowhere.gguf"),
        (["compile", "nowhere.gguf", "-o", "x", "--target", "abacus"], "'abacus' is unknown"),
        (["compile", "nowhere.gguf", "-o", "x", "--plan", "int5-g32"], "bits is 5"),
        (["compile", "nowhere.gguf", "-o", "x", "--prefill", "0"], "prefill=0"),
        (["compile", "nowhere.gguf", "-o", ".."], "holds other files"),
        (["run", "nowhere", "hello"], "no compiled model"),
        (["run", "nowhere", "hello", "--system", "be brief"], "--system has no effect without --chat"),
        (["run", "nowhere", "hello", "--threads", "0"], "threads=0"),
        (["bench", "nowhere"], "no compiled model"),
        (["evaluate", "nowhere", "--text", "nothing.txt"], "nothing.txt cannot be read"),
        (["explain", "nowhere", "a"], "no compiled model"),
        (["report", "nowhere", "--html", "x"], "no compiled model"),
        (["export", "nowhere", "-o", "x"], "no compiled model"),
    ],
)
def test_refusals_are_one_message_and_status_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert message in shown.err
    assert list((tmp_path / "here").iterdir()) == []


def test_looking_before_building(
    tiny_gguf: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["compile", str(tiny_gguf()), "--dry-run", "--plan", "int8-g32, lm_head=keep", *TINY]
    assert main([*arguments, "--json", "--context", "48"]) == 0
    seen = json.loads(capsys.readouterr().out)
    treatments = {one["site"]: one["treatment"] for one in seen["sites"]}
    assert treatments["lm_head"].startswith("keep")
    assert treatments["layers.0.mlp.down_proj"].startswith("int8-g32")
    assert seen["context"] == 48
    assert main(arguments) == 0
    assert "layers.0.self_attn.qkv_proj" in capsys.readouterr().out


def test_an_interruption_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("intaglio.compiler.doctor.diagnose", interrupt)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == ""


def test_the_doctor_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json"])
    assert "findings" in json.loads(capsys.readouterr().out)


def test_help_comes_at_once() -> None:
    """Nothing heavy is loaded for it; half a second is what people call at once."""
    code = "import sys; from intaglio.compiler.cli import parser; parser(); print(*sys.modules)"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 0.5
    assert {"numpy", "onnx_ir", "torch", "tvm", "rich"} & set(done.stdout.split()) == set()


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    command = f"{sys.executable} -P -c 'from intaglio.compiler.cli import main; main([\"doctor\"])' | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_the_parser_is_made_anew() -> None:
    assert parser() is not parser()
