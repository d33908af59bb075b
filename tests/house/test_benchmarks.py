"""What the benchmarks compute from what they measure, how a race is run, and each script on a tiny model."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FACTS = {
    "bytes_per_token": 80,
    "cache_bytes_per_position": 2,
    "operations_per_token": 1000,
    "head_operations": 400,
    "attention_operations_per_pair": 6,
    "vocabulary": 1000,
}
CEILINGS = {
    "read_bytes_per_second": 1000.0,
    "int8_operations_per_second": 1e5,
    "bf16_operations_per_second": 1e4,
    "fp32_operations_per_second": 5e3,
}


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a script by name; its folder is on the path meanwhile."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (BENCHMARKS / f"{name}.py").exists():
            del sys.modules[name]


@pytest.fixture
def paired(scripts: Callable[[str], ModuleType]) -> ModuleType:
    return scripts("paired")


def test_a_ratio_is_taken_within_rounds(paired):
    # The second round was slow for both.
    found = paired.ratio_of([200.0, 20.0, 200.0], [100.0, 10.0, 100.0])
    assert (found.value, found.low, found.high) == (pytest.approx(2), pytest.approx(2), pytest.approx(2))
    with pytest.raises(ValueError, match="shorter"):
        paired.ratio_of([1.0, 2.0], [1.0])


def test_intervals_are_students(paired):
    """The logarithms 0 and 1: mean 0.5, standard error 0.5, and 12.706 of it with one degree of freedom."""
    found = paired.mean_ratio([1.0, math.e])
    assert found.value == pytest.approx(math.exp(0.5))
    assert found.low == pytest.approx(math.exp(0.5 - 12.706 / 2))
    assert found.high == pytest.approx(math.exp(0.5 + 12.706 / 2))


@pytest.mark.parametrize("count", [3, 10, 40])
def test_intervals_cover_the_truth_as_often_as_they_say(paired, count):
    random = np.random.default_rng(0)
    ratios = np.exp(random.normal(0.3, 0.2, (1000, count)))
    found = [paired.mean_ratio(one.tolist()) for one in ratios]
    covered = sum(one.low <= math.exp(0.3) <= one.high for one in found)
    assert 925 <= covered <= 975  # 950 with a standard deviation of 7


def test_one_round_has_no_interval(paired):
    found = paired.mean_ratio([1.5])
    assert (found.low, found.high) == (None, None)
    assert str(found) == "1.50 ×"


def test_the_mean_across_models_is_geometric(paired):
    found = paired.across([[2.0, 2.0], [0.5, 0.5], [8.0, 8.0]])
    assert found.value == pytest.approx(2)
    assert found.low == pytest.approx(2)


def test_a_table(paired):
    assert paired.markdown(["", "b"], [["1", "2"]]).splitlines() == ["|  | b |", "| --- | --- |", "| 1 | 2 |"]


def test_the_floor_of_a_step_is_its_bytes(scripts):
    floors = scripts("floors")
    # Positions 11, 12 and 13 are read by three steps after ten tokens: 12 on average.
    figure = floors.Figure("decode", 10)
    assert floors.least_seconds(figure, 3, FACTS, CEILINGS) == pytest.approx((80 + 12 * 2) / 1000)
    assert floors.limit(figure, 3, FACTS, CEILINGS) == pytest.approx(1000 / 104)


def test_the_floor_of_a_batch_is_bytes_or_products(scripts):
    floors = scripts("floors")
    # The weights once, the keys and values of two sequences.
    found = floors.least_seconds(floors.Figure("batch", 10, 2), 3, FACTS, CEILINGS)
    assert found == pytest.approx((80 + 2 * 12 * 2) / 1000)
    slow = {**CEILINGS, "int8_operations_per_second": 1e4}
    assert floors.least_seconds(floors.Figure("batch", 10, 2), 3, FACTS, slow) == pytest.approx(
        2 * 1000 / 1e4
    )


def test_the_floor_of_a_prompt_is_its_products(scripts):
    floors = scripts("floors")
    # Linear layers for four tokens, the head for one; ten pairs of query and key.
    seconds = (4 * 600 + 400) / 1e5 + 10 * 6 / 1e4
    assert floors.least_seconds(floors.Figure("prefill", 4), 1, FACTS, CEILINGS) == pytest.approx(seconds)
    assert floors.limit(floors.Figure("prefill", 4), 1, FACTS, CEILINGS) == pytest.approx(4 / seconds)
    assert floors.matrix_operations(4, FACTS) == 4 * 600


class Racer:
    """Answers as a contestant does, at a known speed, and keeps what it was asked."""

    def __init__(self, name: str, log: list[tuple[str, str]], seconds: float) -> None:
        self.name, self.log, self.seconds, self.idle_share = name, log, seconds, 0.0
        self.prompts: list[tuple[int, ...]] = []

    def ask(self, do: str, **arguments: Any) -> Any:
        self.log.append((self.name, do))
        if do == "time":
            self.prompts.append(tuple(arguments["prompt"]))
            return [self.seconds * len(arguments["prompt"]), self.seconds * arguments["count"]]
        if do == "time_batch":
            return self.seconds * arguments["count"]
        return {
            "facts": FACTS,
            "say": {"prompt": "Once", "tokens": [1], "text": f"upon | a\ntime, {self.name}"},
            "ceilings": {"threads": 1, **CEILINGS},
            "profile": {"linear": 0.5, "attention": 0.25},
        }[do]


@pytest.fixture
def race(scripts) -> tuple[dict[str, Any], dict[str, Racer], list[tuple[str, str]]]:
    """Two of ours and a rival, two rounds."""
    llm_race = scripts("llm_race")
    log: list[tuple[str, str]] = []
    racers = {
        "intaglio": Racer("intaglio", log, 0.1),
        "intaglio int4": Racer("intaglio int4", log, 0.05),
        "llama_file": Racer("llama_file", log, 0.2),
    }
    plan = llm_race.Plan(prefill=(8,), contexts=(4, 8), batches=(1, 2), decode=5, rounds=2)
    return llm_race.run(racers, ("intaglio", "intaglio int4"), plan), racers, log


def test_rounds_take_turns(race):
    _, _, log = race
    timed = [name for name, do in log if do == "time"]
    a, b, c = "intaglio", "intaglio int4", "llama_file"
    assert timed == [a, b, c] * 2 + [b, c, a] * 2 + [c, a, b] * 2


def test_every_round_has_its_own_prompts_and_all_contestants_the_same(race):
    _, racers, _ = race
    prompts = [one.prompts for one in racers.values()]
    assert prompts[0] == prompts[1] == prompts[2]
    assert len(set(prompts[0])) == len(prompts[0]) == 6


def test_rates_and_limits_by_figure(race):
    found, _, _ = race
    assert len(found["rounds"]) == 2  # the first did not count
    assert found["figures"] == [
        "prefill 8",
        "decode after 4",
        "decode after 8",
        "decode after 4, batch 2",
    ]
    for one in found["rounds"]:
        assert one["rates"]["llama_file"] == pytest.approx(
            {"prefill 8": 5, "decode after 4": 5, "decode after 8": 5}
        )
        assert one["rates"]["intaglio"]["decode after 4, batch 2"] == pytest.approx(20)
        assert one["limits"]["intaglio"]["decode after 4"] == pytest.approx(1000 / (80 + 7 * 2))
        assert one["matrix_rates"]["intaglio"] == pytest.approx(8 * 600 / 0.5)


def page_of(scripts, race) -> str:
    result = {
        "machine": {"processor": "A processor", "python": "3", "intaglio": "1"},
        "quality": {"intaglio": {"tokens": 10, "kl": 0.002, "top1_agreement": 0.974}},
        "races": [{"threads": 1, "skipped": {"genai": "genai: not installed\nmore"}, **race}],
    }
    text: str = scripts("llm_tables").page(result)
    return text


def test_the_page(scripts, race):
    lines = page_of(scripts, race[0]).splitlines()
    assert "| intaglio | 10 | 0.0020 | 97.4% |" in lines
    assert (
        "| tokens per second | prefill 8 | decode after 4 | decode after 8 | decode after 4, batch 2 |"
        in lines
    )
    theirs = "5 [5 – 5], 2.00 × (2.00 – 2.00)"
    assert f"| llama.cpp, the file as it is, C API | {theirs} | {theirs} | {theirs} | – |" in lines
    assert any(line.startswith("| … of its ceiling |") and " 94% [94% – 94%] " in line for line in lines)
    best = "llama.cpp, the file as it is, C API | 2.00 × (2.00 – 2.00) | 4.00 × (4.00 – 4.00) |"
    assert f"| decode after 8 | {best}" in lines
    assert "| intaglio | 8 | attention 250.0 ms, linear 500.0 ms | 10% |" in lines
    assert "| intaglio | upon \\| a time, intaglio |" in lines
    assert "Skipped: genai (not installed)." in lines


def test_who_is_busy_while_others_run_is_told(scripts, race):
    assert "Used a processor" not in page_of(scripts, race[0])
    race[0]["idle_share"]["llama_file"] = 0.5
    assert "Used a processor while others ran: llama_file 50%." in page_of(scripts, race[0])


@pytest.mark.parametrize(("text", "found"), [("512,32", (32, 512)), ("8", (8,)), ("", ())])
def test_lengths_are_read(scripts, text, found):
    assert scripts("cpu_llm").lengths(text) == found


@pytest.mark.parametrize("text", ["0", "-1", "a", "1.5"])
def test_other_lengths_are_refused(scripts, text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"whole numbers|from 1"):
        scripts("cpu_llm").lengths(text)


def test_unknown_rivals_are_refused(scripts):
    with pytest.raises(argparse.ArgumentTypeError, match="lamma: choose from llama_q4_0"):
        scripts("cpu_llm").names("lamma,torch")


def test_a_contestant_that_cannot_start_is_named_with_its_last_words(scripts):
    contestants = scripts("contestants")
    with contestants.started({"nobody": (sys.executable, {"kind": "nobody"})}) as found:
        assert found["nobody"].startswith("nobody: ended with status 1\n")
        assert "KeyError: 'nobody'" in found["nobody"]


def test_a_rival_that_is_not_installed_says_so(scripts, tmp_path):
    """A Python without site packages has no numpy either."""
    contestants = scripts("contestants")
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    (tmp_path / "python").chmod(0o755)
    with contestants.started({"torch": (str(tmp_path / "python"), {"kind": "torch"})}) as found:
        assert found["torch"].startswith("torch: not installed (")


def test_a_script_that_fails_is_told_with_its_last_words(scripts):
    contestants = scripts("contestants")
    with pytest.raises(contestants.ContestantError, match=r"no_such\.py: exit status 2\n.*No such file"):
        contestants.run_script(sys.executable, "no_such.py", [])


def run_script(name: str, *arguments: str) -> str:
    command = [sys.executable, str(BENCHMARKS / name), *arguments]
    # As `make bench` runs them: they import what lies beside them, which a safe path forbids.
    environment = {key: one for key, one in os.environ.items() if key != "PYTHONSAFEPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_language_models_end_to_end(tiny_gguf, tmp_path):
    model, result = tiny_gguf(), tmp_path / "result.json"
    lengths = ("--prefill", "16", "--contexts", "8", "--decode", "4", "--batches", "", "--threads", "1")
    rest = ("--rivals", "", "--rounds", "2", "--quality-tokens", "64", "--json", str(result))
    page = run_script("cpu_llm.py", str(model), *lengths, *rest)
    assert "| … of its ceiling |" in page
    assert "llama_q4_0, llama_file, genai, openvino, torch, torch_compile (not asked for)" in page
    (race,) = json.loads(result.read_text())["races"]
    for one in race["rounds"]:
        assert one["rates"]["intaglio"]["decode after 8"] > 0
        assert one["limits"]["intaglio"]["prefill 16"] > one["rates"]["intaglio"]["prefill 16"] > 0


def graph_case(theirs: list[float], **ours: tuple[list[float], dict[str, Any]]) -> dict[str, Any]:
    """Seconds by round of onnxruntime and of ours, with each one's check."""
    rounds = [
        {"onnxruntime": one, **{name: seconds[index] for name, (seconds, _) in ours.items()}}
        for index, one in enumerate(theirs)
    ]
    checks = {name: check for name, (_, check) in ours.items()}
    return {"rounds": rounds, "checks": checks, "failed": {}}


EQUAL = {"equal": True, "passed": True, "error": 2e-6, "measure": "cosine", "agreement": 1.0}
CLOSE = {"equal": False, "passed": True, "error": 0.1, "measure": "top-1", "agreement": 0.998}
FAR = {"equal": False, "passed": False, "error": 0.3, "measure": "cosine", "agreement": 0.98}


def test_the_page_of_graphs(scripts):
    result = {
        "machine": {"processor": "A processor"},
        "threads": 2,
        "cases": {
            "small": graph_case([0.002] * 3, intaglio=([0.001] * 3, EQUAL), int8=([0.0005] * 3, FAR)),
            "large": graph_case([0.2] * 3, intaglio=([0.2] * 3, EQUAL), int8=([0.025] * 3, CLOSE)),
        },
        "skipped": {"other": "the package other is not installed"},
    }
    result["cases"]["large"]["failed"] = {"int4": "no such thing"}
    lines = scripts("graph_tables").page(result).splitlines()
    fast = "2.00 × (2.00 – 2.00)"
    assert f"| small | 2 [2 – 2] | intaglio | 1 [1 – 1] | {fast} | equal (2e-06) |" in lines
    assert any(
        line.startswith("| small |") and line.endswith("| **cosine 98.00%: too far** |") for line in lines
    )
    assert any(line.startswith("| large |") and line.endswith("| top-1 99.80% |") for line in lines)
    assert "Geometric mean of intaglio: 1.41 × (1.41 – 1.41)." in lines
    # int8 was too far from the original of the small one: 2 and 8.
    assert "Geometric mean of the fastest that passed: 4.00 × (4.00 – 4.00)." in lines
    assert "Skipped other: the package other is not installed" in lines
    assert "large: no int4: no such thing" in lines


def test_a_model_that_nothing_passes_for_counts_as_one(scripts):
    case = graph_case([1.0, 1.0], intaglio=([0.5, 0.5], FAR))
    assert scripts("graph_tables").best(case) == [1.0, 1.0]


def test_outputs_are_equal_close_or_neither(scripts):
    race = scripts("graph_race")
    wanted = [{"y": np.array([[1.0, 2.0, 4.0], [5.0, 1.0, 0.0]])}]
    assert race.checked([{"y": wanted[0]["y"] + 4e-3}], wanted, "cosine", 0.0)["equal"]
    near = race.checked([{"y": wanted[0]["y"] + 0.1}], wanted, "cosine", 0.005)
    assert (near["equal"], near["passed"], near["error"]) == (False, True, pytest.approx(0.02))
    assert not race.checked([{"y": wanted[0]["y"] + 0.1}], wanted, "cosine", 0.0)["passed"]
    assert not race.checked([{"y": -wanted[0]["y"]}], wanted, "cosine", 0.005)["passed"]
    other = race.checked([{"y": np.array([[4.0, 2.0, 1.0], [5.0, 1.0, 0.0]])}], wanted, "top-1", 0.005)
    assert (other["agreement"], other["passed"]) == (0.5, False)


def test_quality_is_that_of_calls_that_were_not_calibrated_on(scripts):
    race = scripts("graph_race")
    wanted = [{"y": np.array([[1.0, 0.0]])}] * (race.CALIBRATION + 2)
    found = [*wanted[:-1], {"y": np.array([[0.0, 1.0]])}]
    assert race.checked(found, wanted, "top-1", 0.005)["agreement"] == 0.5


def test_a_difference_is_relative_to_each_output(scripts):
    wanted = [{"a": np.array([100.0]), "b": np.array([0.01])}]
    found = [{"a": np.array([101.0]), "b": np.array([0.012])}]
    assert scripts("graph_race").largest_error(found, wanted) == pytest.approx(0.2)


def test_graphs_take_turns(scripts):
    log: list[tuple[str, str]] = []

    class Timed(Racer):
        def ask(self, do: str, **arguments: Any) -> float:
            self.log.append((self.name, do))
            return self.seconds

    racers = {name: Timed(name, log, seconds) for name, seconds in (("a", 1.0), ("b", 2.0))}
    assert scripts("graph_race").rounds(racers, 3, 0.1) == [{"a": 1.0, "b": 2.0}] * 3
    assert [name for name, _ in log] == ["a", "b", "b", "a", "a", "b", "b", "a"]


def test_inputs_differ_and_fit_what_they_are_for(scripts):
    cases = scripts("graph_cases")
    pages = [cases.page(number, 48, 320) for number in range(2)]
    assert pages[0].shape == (1, 3, 48, 320)
    assert np.abs(pages[0]).max() <= 1
    assert not np.array_equal(*pages)
    files = [cases.file_bytes(Path(), number)["bytes"] for number in range(2)]
    assert files[0].shape == (1, 2048)
    assert files[0].dtype == np.int32
    assert 0 <= files[0].min() <= files[0].max() <= 256
    assert not np.array_equal(*files)
    assert cases.sound(Path(), 0)["input"].shape == (1, 576)
    assert cases.text(0) != cases.text(1)


@pytest.mark.slow
def test_graphs_end_to_end(tmp_path):
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[1, 32] x) => (float[1, 32] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "relu.onnx")
    for number in range(2):
        np.savez(tmp_path / f"call-{number}.npz", x=np.linspace(-1, 1, 32, dtype=np.float32)[None])
    given = ("--onnx", str(tmp_path / "relu.onnx"), "--calls", str(tmp_path), "--threads", "1")
    page = run_script(
        "cpu_graphs.py",
        *given,
        "--rounds",
        "2",
        "--seconds",
        "0.01",
        "--quality",
        "0",
        "--json",
        str(tmp_path / "g.json"),
    )
    assert "| relu.onnx |" in page
    assert "equal (0e+00)" in page
    (case,) = json.loads((tmp_path / "g.json").read_text())["cases"].values()
    assert all(seconds > 0 for one in case["rounds"] for seconds in one.values())


class Stages:
    """A program of two stages between barriers and one by itself."""

    kernels = tuple(SimpleNamespace(name=name) for name in ("QuantizeActivation", "QuantizedMatrixVector"))
    cache_bytes_per_position = 10

    def table(self, name: str) -> SimpleNamespace:
        pairs = [(0, False, "layers.0.a"), (1, True, "layers.0.a"), (0, True, "layers.1.b")]
        return SimpleNamespace(
            stages=[SimpleNamespace(kernel=one, barrier=two, site=three) for one, two, three in pairs]
        )


SITES = SimpleNamespace(
    sites=[
        {"site": f"layers.{layer}.{name}", "kind": "linear", "bytes": 100, "shape": [4, 8]}
        for layer in range(2)
        for name in "ab"
    ],
    architecture={"layers": 2, "heads": 3, "head_dim": 5},
)


def test_what_runs_between_barriers_is_timed_as_one(scripts):
    kernels = scripts("cpu_kernels")
    keys = kernels.intervals(Stages(), "decode")
    assert keys == [("a", "QuantizeActivation, QuantizedMatrixVector"), ("b", "QuantizeActivation")]
    assert kernels.totals([*keys, keys[0]], [("", 1.0), ("", 2.0), ("", 4.0)]) == {keys[0]: 5.0, keys[1]: 2.0}
    with pytest.raises(ValueError, match="shorter"):
        kernels.totals(keys, [("", 1.0)])


def test_floors_of_kernels(scripts):
    kernels = scripts("cpu_kernels")
    product, attention = ("a", "QuantizeActivation, QuantizedMatrixVector"), ("c", "DecodeAttention")
    rounding = ("b", "QuantizeActivation")
    found = kernels.decode_work(SITES, Stages(), 7, [product, rounding, attention])
    assert found == {product: kernels.Work(read_bytes=200.0), attention: kernels.Work(read_bytes=70.0)}
    product, attention = ("a", "QuantizedMatrixMatrix"), ("c", "PrefillAttention")
    found = kernels.prompt_work(SITES, 3, [product, rounding, attention, ("b", "DequantizedMatrixVector")])
    assert found[product] == kernels.Work(byte_operations=3 * 2 * 2 * 32.0)
    assert found[attention] == kernels.Work(bfloat16_operations=6 * 4 * 2 * 3 * 5.0)
    assert found["b", "DequantizedMatrixVector"] == kernels.Work(read_bytes=200.0)
    assert rounding not in found
    lines = kernels.table({product: 0.002, rounding: 0.001}, found, CEILINGS).splitlines()
    assert lines[2] == "| a | QuantizedMatrixMatrix | 2000 | 67% | 3840 | 192% |"
    assert lines[3] == "| b | QuantizeActivation | 1000 | 33% | – | – |"


@pytest.mark.parametrize(
    ("arguments", "tokens"),
    [
        (["--prefill", "", "--contexts", "99"], 115),
        (["--prefill", "512,9", "--contexts", ""], 528),
        (["--contexts", "8", "--prefill", "8"], 64),
    ],
)
def test_caches_hold_the_longest_text_and_the_sentence(scripts, arguments, tokens):
    script = scripts("cpu_llm")
    assert script.capacity(script.parser().parse_args([*arguments, "--decode", "8"])) == tokens


def test_a_race_over_no_lengths_is_refused(scripts, capsys):
    with pytest.raises(SystemExit):
        scripts("cpu_llm").main(["--prefill", "", "--contexts", ""])
    assert "give --prefill or --contexts" in capsys.readouterr().err
