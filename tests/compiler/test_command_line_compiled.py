"""The command line on a compiled model."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from intaglio.compiler.cli import main


@pytest.fixture
def run(artifact: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command on the compiled model, with one thread; what it printed."""

    def call(command: str, *arguments: str) -> str:
        assert main([command, str(artifact.folder), "--threads", "1", *arguments]) == 0
        shown = capsys.readouterr()
        assert shown.err == ""
        return shown.out

    return call


def test_run_streams_text(run: Any) -> None:
    text = run("run", "the cat", "--max-new-tokens", "8")
    result = json.loads(run("run", "the cat", "--max-new-tokens", "8", "--json"))
    assert text == result["text"] + "\n"
    assert len(result["tokens"]) <= 8
    assert result["reason"] in ("end", "length")


def test_run_samples_and_stops(run: Any) -> None:
    options = ("--temperature", "1.2", "--top-k", "30", "--top-p", "0.9", "--seed", "4", "--stop", "e")
    result = json.loads(run("run", "the cat", *options, "--json"))
    assert "e" not in result["text"]
    assert result == {
        **json.loads(run("run", "the cat", *options, "--json")),
        **{name: one for name, one in result.items() if name.endswith("seconds")},
    }


def test_run_chats_and_reads_standard_input(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--chat", "--system", "be brief", "--max-new-tokens", "5", "--json")
    direct = json.loads(run("run", "hello", *options))
    monkeypatch.setattr("sys.stdin", io.StringIO("hello"))
    assert json.loads(run("run", "-", *options))["tokens"] == direct["tokens"]
    plain = json.loads(run("run", "hello", "--max-new-tokens", "5", "--json"))
    assert plain["prompt_tokens"] < direct["prompt_tokens"]


def test_bench(run: Any) -> None:
    arguments = ("--prefill", "30", "--decode", "5", "--rounds", "2")
    values = json.loads(run("bench", *arguments, "--json"))
    assert values["threads"] == 1
    assert values["prefill_tokens_per_second_min"] <= values["prefill_tokens_per_second"]
    assert values["decode_tokens_per_second"] <= values["decode_tokens_per_second_max"]
    assert values["bytes_per_token"] > 0
    assert "prefill (30)" in run("bench", *arguments)


def test_evaluate(run: Any, artifact: Any, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("the quick brown fox jumps over the lazy dog, " * 5)
    values = json.loads(
        run("evaluate", "--text", str(tmp_path / "text"), "--against", str(artifact.source), "--json")
    )
    keys = {"perplexity", "reference_perplexity", "kl", "kl_interval", "top1_agreement", "tokens"}
    assert keys <= set(values)
    assert len(values["kl_interval"]) == 2
    assert "nats per token" in run("evaluate", "--tokens", "150")


def test_explain(run: Any) -> None:
    assert "layers.0.mlp.down_proj" in run("explain", "layers.0.mlp.down_proj")
    assert json.loads(run("explain", "lm_head", "--json"))["sites"][0]["site"] == "lm_head"


def test_report(run: Any, tmp_path: Path) -> None:
    assert "What a decode step spends" in run("report", "--html", str(tmp_path / "page.html"))
    assert "<svg" in (tmp_path / "page.html").read_text()
    assert "account" in json.loads(run("report", "--json"))


def test_export(run: Any, tmp_path: Path) -> None:
    values = json.loads(run("export", "-o", str(tmp_path / "onnx"), "--json"))
    assert Path(values["path"]).is_file()
    assert values["bytes"] == sum(one.stat().st_size for one in (tmp_path / "onnx").iterdir())


def test_refusals(artifact: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(artifact.folder)
    for arguments, message in (
        (["run", folder, "x" * 200], "exceed the context of 128"),
        (["run", folder, "x", "--top-k", "3"], "top_k has no effect"),
        (["explain", folder, "layers.7"], "there is no 'layers.7'"),
        (["bench", folder, "--prefill", "500"], "do not fit into the context of 128"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
