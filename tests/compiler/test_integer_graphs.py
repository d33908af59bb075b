"""Graphs compiled with `quality`: integers within it, or the reasons why not."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import intaglio
from intaglio.compiler.calibration import CalibrationInputs
from intaglio.compiler.errors import OptionError
from intaglio.compiler.frontends.frontend import TraceOptions
from intaglio.compiler.frontends.tracing import trace
from intaglio.compiler.graph_passes import normalized_graph
from intaglio.compiler.graph_ports import GraphPorts
from intaglio.compiler.int8_candidates import Int8Options, int8_candidates

REAL = runpy.run_path(str(Path(__file__).parents[1] / "helpers" / "calibration_inputs.py"))
RANDOM = np.random.default_rng(2)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def classifier(outlier: float = 1.0) -> onnx.ModelProto:
    """Convolutions of 16 and 24 channels and a head; `outlier` spoils the range of one layer's input."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Mul", ["r", "stretch"], ["s"]),
        helper.make_node("Conv", ["s", "w2", "b2"], ["c"], name="second", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "e"], ["y"], name="head", transB=1),
    ]
    stretch = np.ones((1, 16, 1, 1), np.float32)
    stretch[0, 0] = outlier
    second = normal(24, 16, 3, 3) / 12
    second[:, 0] /= outlier
    weights = {
        "w1": normal(16, 3, 3, 3) / 5, "b1": normal(16), "stretch": stretch, "w2": second, "b2": normal(24),
        "v": normal(10, 24), "e": normal(10),
    }  # fmt: skip
    made = [numpy_helper.from_array(one, name) for name, one in weights.items()]
    ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])]
    result = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])]
    graph = helper.make_graph(nodes, "classifier", ports, result, made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def images(count: int = 12) -> list[dict[str, np.ndarray]]:
    return [{"x": normal(1, 3, 20, 20)} for _ in range(count)]


def candidates(model: onnx.ModelProto, **options: Any) -> Any:
    traced = trace(model, TraceOptions())
    normalized = normalized_graph(traced).model
    inputs = CalibrationInputs.of(GraphPorts.of(normalized, None), images())
    return int8_candidates(normalized, inputs, Int8Options(**options))


def test_versions_within_the_tolerance_are_offered_with_certificates() -> None:
    found = candidates(classifier())
    assert found.candidates[0].name.split(",")[0] == "int8 convolutions"
    for one in found.candidates:
        assert one.quality.passes
        gates = [applied.certificate for applied in one.applied if applied.site == "model"]
        assert gates
        assert all(certificate.holds for certificate in gates)


def test_nothing_within_a_tolerance_that_no_rounding_keeps() -> None:
    found = candidates(classifier(), tolerance=1e-9, seconds=0.0)
    assert not found.candidates
    lost = [one.reason for one in found.declined if "more is lost than 0.00%" in one.reason]
    assert len(lost) == 2
    assert all("cosine 0.99" in one or "cosine 1.0" in one for one in lost), "the figures are told"
    assert "group 32 of int8-g32 does not divide" in " ".join(one.reason for one in found.declined)


def test_the_layer_that_loses_too_much_stays_in_floating_point() -> None:
    found = candidates(classifier(outlier=3000.0))
    convolutions = found.candidates[0]
    assert "second" in [one.site for one in convolutions.declined]
    assert "first" in [one.site for one in convolutions.applied]


def test_compile_measures_keeps_and_tells(tmp_path: Path) -> None:
    model, calls = classifier(), images()
    exact = intaglio.compile(model, threads=1)(calls[0])["y"]
    with intaglio.compile(model, threads=1, quality=0.01, calibration=calls) as compiled:
        found = compiled(calls[0])["y"]
        names = [one["name"] for one in compiled.manifest.partition["candidates"]]
        assert any(name.startswith("int8 convolutions") for name in names)
        kept = compiled.manifest.partition["kept"]
        told = {one.pass_name for one in compiled.manifest.account.applied}
        assert ("int8_candidates" in told) == kept.startswith("int8")
        saved = compiled.save(tmp_path / "saved")
        assert not list(saved.glob("integers*"))
    with intaglio.load(saved, threads=1) as loaded:
        np.testing.assert_array_equal(loaded(calls[0])["y"], found)
    assert np.vdot(found, exact) / np.linalg.norm(found) / np.linalg.norm(exact) > 0.99


def test_integers_are_not_compiled_anew_without_calibration(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(classifier(), path)
    with intaglio.compile(path, threads=1, quality=0.01, calibration=images()) as compiled:
        compiled.manifest.partition["kept"] = "int8 convolutions in onnxruntime, normalised"
        with pytest.raises(OptionError, match="quality, calibration"):
            compiled.recompile_for(images(1)[0])


def test_made_inputs_are_said_to_be_made() -> None:
    with intaglio.compile(classifier(), threads=1, quality=0.01) as compiled:
        account = compiled.manifest.account
        lines = [one.detail for one in account.applied] + [one.reason for one in account.declined]
        assert compiled.manifest.partition["kept"].startswith("int8") == any(
            "none were given" in one for one in lines
        )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"calibration": images()}, "calibration without effect"),
        ({"quality": 0.0}, "quality=0.0"),
        ({"quality": True}, "quality=True"),
        ({"quality": "high"}, "quality='high'"),
        ({"quality": 0.01, "plan": "int8-channel"}, "beside a plan"),
        ({"quality": 0.01, "calibration": [{"z": 1}] * 8}, "'z' is no input"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        intaglio.compile(classifier(), threads=1, **options)


def test_inputs_of_real_kinds_are_deterministic() -> None:
    for make in ("page", "text_line", "voice", "file_bytes"):
        first, second = REAL[make](3), REAL[make](3)
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])
    assert REAL["page"](0)["x"].shape == (1, 3, 480, 640)
    assert REAL["text_line"](0)["x"].std() > 0.1
