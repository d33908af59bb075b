"""The measured choice: the fastest that agrees is kept, what cannot run says why; examples count."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import intaglio
from intaglio.compiler.artifact import read_manifest, write_manifest
from intaglio.compiler.compiled_graph import CompiledGraph
from intaglio.compiler.errors import CodegenError
from intaglio.compiler.partition import Candidate, partition
from intaglio.compiler.partition_timing import largest_error

CALL = {"x": np.ones(3, np.float32)}


def way(name: str, seconds: float, value: float = 1.0) -> Candidate:
    def run(call: Any) -> dict[str, np.ndarray]:
        time.sleep(seconds)
        return {"y": call["x"] * np.float32(value)}

    return Candidate(name, lambda: run)


def refused() -> Any:
    raise CodegenError("codegen: there is no C compiler")


def test_the_fastest_that_agrees_is_kept() -> None:
    ways = [way("first", 0.01), way("wrong", 0.0, 1.1), way("fast", 0.002), Candidate("broken", refused)]
    found = partition(ways, [CALL], "first", threads=1, budget=0.1)
    assert found.kept == "fast"
    by_name = {one.name: one for one in found.candidates}
    assert by_name["fast"].relative < 0.6
    assert by_name["wrong"].relative is None
    assert "its outputs differ by 1.0e-01" in by_name["wrong"].reason
    assert by_name["broken"].reason == "codegen: there is no C compiler"
    assert found.fastest_of(["first", "wrong"]) == "first"


def test_the_preferred_one_is_kept_where_it_makes_no_difference() -> None:
    found = partition([way("first", 0.004), way("second", 0.004)], [CALL], "second", threads=1, budget=0.1)
    assert found.kept == "second"


def test_nothing_is_measured_without_inputs_or_an_original_that_runs() -> None:
    found = partition([way("first", 0.0), way("second", 0.0)], [], "second", threads=1)
    assert (found.kept, found.candidates[0].relative) == ("second", None)
    assert "give example_inputs" in found.candidates[0].reason
    found = partition([Candidate("broken", refused), way("second", 0.0)], [CALL], "second", threads=1)
    assert found.kept == "second"
    assert "no C compiler" in found.candidates[1].reason


@pytest.mark.parametrize(
    ("found", "wanted", "error"),
    [
        ([1.0, 2.02], [1.0, 2.0], 0.01),
        ([1e-6], [2e-6], 1e-3),
        ([1, 2], [1, 3], 1.0),
        ([np.nan, 1.0], [np.nan, 1.0], 0.0),
        ([np.nan, 1.0], [0.0, 1.0], np.inf),
    ],
)
def test_errors_are_relative_to_the_largest_value(found: Any, wanted: Any, error: float) -> None:
    pair = ({"y": np.array(found)}, {"y": np.array(wanted)})
    assert largest_error(*pair) == pytest.approx(error, rel=1e-6)


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    """Layers without shapes: so many that ours beat onnxruntime's overhead of each node."""
    names = [f"h{index}" for index in range(25)]
    nodes = []
    for index, (before, after) in enumerate(zip(["x", *names], names, strict=False)):
        nodes.append(helper.make_node("MatMul", [before, "w"], [f"p{index}"]))
        nodes.append(helper.make_node("Tanh", [f"p{index}"], [after]))
    weight = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32) / 4
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 32]) for name in ("x", names[-1])]
    graph = helper.make_graph(nodes, "g", shapes[:1], shapes[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, tmp_path / "layers.onnx")
    return tmp_path / "layers.onnx"


def rows(count: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(count).standard_normal((count, 32)).astype(np.float32)}


def test_examples_give_a_program_that_is_saved_and_told_of(layers: Path, tmp_path: Path) -> None:
    compiled = intaglio.compile(layers, example_inputs=[rows(1), (rows(5)["x"],)], threads=1)
    assert isinstance(compiled, CompiledGraph)
    measured = {one["name"]: one for one in compiled.manifest.partition["candidates"]}
    assert measured["native"]["error"] < 1e-5
    assert [one["x"] for one in compiled.manifest.partition["shapes"]] == [[1, 32], [5, 32]]
    assert compiled.manifest.partition["kept"] == "native"  # by a factor of ten, on any machine
    with (
        intaglio.load(compiled.save(tmp_path / "saved"), threads=1) as loaded,
        intaglio.compile(layers) as plain,
    ):
        for count in (1, 5, 3):  # of the last one there is no program
            (found,) = loaded(rows(count)).values()
            (wanted,) = plain(rows(count)).values()
            assert np.abs(found - wanted).max() < 1e-5
        text = loaded.report.to_text()
        assert "kernels: 50 linear" in text
        assert "calls of other shapes run in onnxruntime" in text
        assert "run by a kernel of ours (linear)" in loaded.explain("p0").to_text()
        with intaglio.load(tmp_path / "saved", recompile=True, threads=1) as anew:
            assert np.array_equal(next(iter(anew(rows(5)).values())), next(iter(loaded(rows(5)).values())))
        with loaded.recompile_for(rows(3)) as again:
            assert [one["x"] for one in again.manifest.partition["shapes"]] == [[3, 32]]
        with pytest.raises(intaglio.OptionError, match="inputs of at least one call"):
            loaded.recompile_for()
    compiled.close()


def test_programs_for_other_machines_are_refused(layers: Path, tmp_path: Path) -> None:
    with intaglio.compile(layers, example_inputs=rows(1), threads=1) as compiled:
        path = compiled.save(tmp_path / "saved")
    manifest = read_manifest(path)
    foreign = {**manifest.target, "features": ["avx4096"]}
    write_manifest(path, dataclasses.replace(manifest, target=foreign))
    with pytest.raises(intaglio.ForeignArtifactError, match=r"avx4096.*recompile=True"):
        intaglio.load(path)


def test_examples_that_do_not_fit_are_told_all_at_once(layers: Path) -> None:
    wrong = [{"z": rows(1)["x"]}, {"x": np.ones((2, 31), np.float32)}]
    with pytest.raises(
        intaglio.OptionError, match=r"(?s)example 0: .*'z' is no input.*example 1: .*\[2, 31\]"
    ):
        intaglio.compile(layers, example_inputs=wrong)
    with pytest.raises(intaglio.OptionError, match="2 arrays for 1 inputs"):
        intaglio.compile(layers, example_inputs=(1, 2))


def test_decoders_take_no_examples(tiny_gguf: Callable[..., Path]) -> None:
    with pytest.raises(intaglio.OptionError, match="example_inputs has no effect"):
        intaglio.compile(tiny_gguf(), example_inputs={"x": np.ones(1)})
