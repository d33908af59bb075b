"""Several sequences together: the session's slots, generating many texts, and the measured cost of rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import intaglio
from intaglio.compiler import batch_cost
from intaglio.compiler.cli import main
from intaglio.compiler.compiled_model import CompiledModel
from intaglio.compiler.errors import ContextLengthError, OptionError

BATCH, CONTEXT = 3, 96
PROMPTS = [[5, 9, 2], [7], list(range(10, 50)), [4, 4, 8, 1], [250, 3], [11, 12, 13, 14, 15, 16]]


@pytest.fixture(scope="module")
def source(tiny_gguf: Any) -> Path:
    path: Path = tiny_gguf(quantization="Q4_0")
    return path


@pytest.fixture(scope="module")
def batched(source: Path) -> Iterator[CompiledModel]:
    workload = intaglio.Workload(prefill=20, decode=10, batch=BATCH)
    with intaglio.compile(source, workload=workload, context=CONTEXT, plan="keep, cache=fp32") as compiled:
        yield compiled


@pytest.fixture(scope="module")
def single(source: Path) -> Iterator[CompiledModel]:
    workload = intaglio.Workload(prefill=20, decode=10)
    with intaglio.compile(source, workload=workload, context=CONTEXT, threads=1) as compiled:
        yield compiled


def alone(compiled: CompiledModel, tokens: list[int]) -> np.ndarray:
    session = compiled.session
    session.reset()
    return session.extend(tokens)


def close(found: np.ndarray, wanted: np.ndarray) -> bool:
    # Sums in another order move an activation over a rounding bound now and then: one code of 127.
    return bool(np.abs(found - wanted).max() < 2e-2 * np.abs(wanted).max())


def test_a_step_of_many_is_a_step_of_each(batched: CompiledModel) -> None:
    wanted = [alone(batched, [*prompt, 17]) for prompt in PROMPTS[:BATCH]]
    sequences = batched.session.sequences
    for slot in reversed(range(BATCH)):
        sequences.reset(slot)
        sequences.extend(slot, PROMPTS[slot])
    found = sequences.extend_many({2: 17, 0: 17, 1: 17})
    assert sequences.positions == (4, 2, 41)
    for row, slot in enumerate((2, 0, 1)):
        assert close(found[row], wanted[slot])


def test_sequences_begin_and_end_while_others_go_on(batched: CompiledModel) -> None:
    wanted = alone(batched, [5, 9, 2, 30, 31, 32])
    fresh = alone(batched, [8, 8, 33])
    sequences = batched.session.sequences
    for slot in (0, 1):
        sequences.reset(slot)
        sequences.extend(slot, PROMPTS[slot])
    sequences.extend_many({0: 30, 1: 77})
    sequences.extend_many({0: 31})
    sequences.reset(1)
    sequences.extend(1, [8, 8])
    found = sequences.extend_many({0: 32, 1: 33})
    assert close(found[0], wanted)
    assert close(found[1], fresh)


def test_the_likeliest_of_each_row(batched: CompiledModel) -> None:
    sequences = batched.session.sequences
    for slot in range(BATCH):
        sequences.reset(slot)
        sequences.extend(slot, PROMPTS[slot])
    best = sequences.best_many({0: 17, 2: 19}, 4)
    for slot in (0, 2):
        sequences.reset(slot, len(PROMPTS[slot]))
    logits = sequences.extend_many({0: 17, 2: 19})
    for (tokens, values), row in zip(best, logits, strict=True):
        assert tokens.tolist() == np.argsort(-row, kind="stable")[:4].tolist()
        assert np.array_equal(values, row[tokens])


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({3: 1}, r"slots \[3\] are outside 0 … 2.*batches of up to 3"),
        ({0: 99999}, "id 99999 is outside"),
        ({}, "no sequence"),
    ],
)
def test_bad_steps(batched: CompiledModel, tokens: dict[int, int], message: str) -> None:
    before = batched.session.sequences.positions
    with pytest.raises(OptionError, match=message):
        batched.session.sequences.extend_many(tokens)
    assert batched.session.sequences.positions == before


def test_a_full_sequence_is_refused_before_any_runs(batched: CompiledModel) -> None:
    sequences = batched.session.sequences
    for slot in (0, 1):
        sequences.reset(slot)
    sequences.extend(0, [1] * CONTEXT)
    sequences.extend(1, [1])
    with pytest.raises(ContextLengthError, match="96 \\+ 1 tokens"):
        sequences.extend_many({1: 2, 0: 2})
    assert sequences.positions[:2] == (CONTEXT, 1)


def test_many_texts_are_those_of_each_alone(batched: CompiledModel) -> None:
    """More prompts than slots, of different lengths, with ends at different times."""
    pieces: dict[int, str] = {}

    def show(number: int, piece: str) -> None:
        pieces[number] = pieces.get(number, "") + piece

    many = batched.generate_many(PROMPTS, 12, stream=show)
    each = [batched.generate(prompt, 12) for prompt in PROMPTS]
    assert [one.tokens for one in many] == [one.tokens for one in each]
    assert [one.text for one in many] == [one.text for one in each]
    assert [pieces.get(number, "") for number in range(len(PROMPTS))] == [one.text for one in many]
    assert [one.prompt_tokens for one in many] == [len(prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("options", [{"temperature": 0.7, "seed": 3}, {"repetition_penalty": 1.3}])
def test_sampled_texts_are_those_of_each_alone(batched: CompiledModel, options: dict[str, Any]) -> None:
    many = batched.generate_many(PROMPTS[:4], 6, **options)
    assert [one.tokens for one in many] == [batched.generate(one, 6, **options).tokens for one in PROMPTS[:4]]


def test_bad_prompts_are_told_together(batched: CompiledModel) -> None:
    with pytest.raises(ContextLengthError, match=r"(?s)prompt 0: .*prompt 2: "):
        batched.generate_many([[1] * 95, [2], [3] * 96], 5)
    with pytest.raises(OptionError, match="one text was given"):
        batched.generate_many("a text")  # type: ignore[arg-type]
    assert batched.generate_many([]) == []


def test_models_for_single_sequences_say_so(single: CompiledModel) -> None:
    with pytest.raises(OptionError, match="batches of 1 sequence"):
        single.generate_many([[1], [2]])
    with pytest.raises(OptionError, match="compiled for 1 sequence at a time"):
        single.session.sequences.extend_many({0: 1})


def test_the_cost_of_rows_is_measured(batched: CompiledModel, single: CompiledModel) -> None:
    for compiled in (batched, single):
        cost = compiled.manifest.batch_cost
        assert list(cost) == ["1", "2", "4", "8", "16", "32", "64"]
        assert cost["1"] == 1.0
        assert all(value > 0 for value in cost.values())
        assert compiled.manifest.one_row_seconds > 0
        assert compiled.manifest.batch_cost_threads == compiled.threads


def test_the_cost_outlives_saving(batched: CompiledModel, tmp_path: Path) -> None:
    batched.save(tmp_path / "saved")
    with intaglio.load(tmp_path / "saved") as loaded:
        assert loaded.manifest.batch_cost == batched.manifest.batch_cost
        assert loaded.session.sequences.slots == BATCH


def test_rows_beyond_the_context_are_not_measured() -> None:
    seen: list[tuple[int, int]] = []
    seconds = batch_cost.measure(lambda rows, position: seen.append((rows, position)) or rows * 1e-3, 10)
    assert seconds == {1: 1e-3, 2: 2e-3, 4: 4e-3}
    assert {position for _, position in seen} == {5}


def test_the_report_tells_slots_and_costs(batched: CompiledModel) -> None:
    report = batched.report
    assert report.cache_bytes == BATCH * 128 * batched.program.cache_bytes_per_position  # whole blocks
    lines = "\n".join(report.headlines())
    assert f"cache for {BATCH} x {CONTEXT} tokens" in lines
    assert "cost of M rows over one" in lines


def test_the_command_line(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, prompts = str(tmp_path / "model"), tmp_path / "prompts.txt"
    sizes = ["--prefill", "20", "--decode", "10", "--batch", "2", "--context", "96"]
    assert main(["compile", str(source), "-o", folder, *sizes, "--json"]) == 0
    prompts.write_text("one\n\ntwo\nthree\n")
    capsys.readouterr()
    assert main(["run", folder, "--prompts", str(prompts), "--max-new-tokens", "4", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [len(one["tokens"]) for one in results] == [4, 4, 4]
    assert main(["run", folder, "a prompt", "--prompts", str(prompts)]) == 2
    assert "no effect with --prompts" in capsys.readouterr().err
    assert main(["run", folder, "--prompts", str(tmp_path / "none")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    bench = ["bench", folder, "--prefill", "8", "--decode", "4", "--rounds", "1", "--json"]
    assert main(bench) == 0
    assert json.loads(capsys.readouterr().out)["batch_cost"]["1"] == 1.0
