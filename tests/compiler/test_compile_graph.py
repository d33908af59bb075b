"""Graphs the whole way: compiled, called, refused; they compute what onnxruntime makes of their source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import intaglio
from intaglio.compiler.compiled_graph import CompiledGraph
from intaglio.passes.quantize.quantize_activations import round_activations

RANDOM = np.random.default_rng(1)
FLOAT, BOOL, INT64 = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def port(name: str, kind: int, shape: Sequence[Any] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Mapping[str, np.ndarray] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(one, name) for name, one in (weights or {}).items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def original(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def convolution() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A small image classifier that gives its features, too."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["features"]),
        helper.make_node("GlobalAveragePool", ["features"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "a"], ["y"], transB=1),
    ]
    weights = {"w": normal(5, 3, 3, 3), "b": normal(5), "v": normal(4, 5), "a": normal(4)}
    outputs = [port("y", FLOAT, ["n", 4]), port("features", FLOAT, ["n", 5, "h", "w"])]
    model = make_model(nodes, [port("x", FLOAT, ["n", 3, "h", "w"])], outputs, weights)
    return model, {"x": normal(2, 3, 7, 9)}


def branches() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    then = helper.make_graph(
        [helper.make_node("Mul", ["x", "two"], ["t"])], "then", [], [port("t", FLOAT, None)]
    )
    otherwise = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["e"], name="negate")], "else", [], [port("e", FLOAT, None)]
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=otherwise)
    inputs = [port("c", BOOL, []), port("x", FLOAT, ["n"])]
    model = make_model([node], inputs, [port("y", FLOAT, ["n"])], {"two": np.array(2, np.float32)})
    return model, {"c": np.array(False), "x": normal(4)}


def loop() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    body = helper.make_graph(
        [helper.make_node("Add", ["a", "x"], ["next"]), helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [port("i", INT64, []), port("go", BOOL, []), port("a", FLOAT, None)],
        [port("on", BOOL, []), port("next", FLOAT, None)],
    )
    node = helper.make_node("Loop", ["times", "", "zero"], ["y"], body=body)
    inputs = [port("times", INT64, []), port("x", FLOAT, [3])]
    model = make_model([node], inputs, [port("y", FLOAT, [3])], {"zero": np.zeros(3, np.float32)})
    return model, {"times": np.array(5), "x": normal(3)}


def recurrent() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y", "last"], hidden_size=6)
    weights = {"w": normal(1, 24, 5), "r": normal(1, 24, 6)}
    outputs = [port("y", FLOAT, None), port("last", FLOAT, None)]
    model = make_model([node], [port("x", FLOAT, ["t", "b", 5])], outputs, weights)
    return model, {"x": normal(7, 2, 5)}


def half() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    kind, weight = TensorProto.FLOAT16, normal(64, 8).astype(np.float16)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="layer")
    model = make_model([node], [port("x", kind, [None, 64])], [port("y", kind, [None, 8])], {"w": weight})
    return model, {"x": normal(3, 64).astype(np.float16)}


def passed_through() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """An input that is an output, an output that is a weight, names that are no identifiers."""
    node = helper.make_node("Neg", ["input:0"], ["a/b"])
    outputs = [port("a/b", FLOAT, ["n"]), port("input:0", FLOAT, ["n"]), port("k", FLOAT, [2])]
    model = make_model([node], [port("input:0", FLOAT, ["n"])], outputs, {"k": normal(2)})
    return model, {"input:0": normal(5)}


CASES = (convolution, branches, loop, recurrent, half, passed_through)


@pytest.mark.parametrize("case", CASES, ids=lambda one: one.__name__)
def test_a_graph_computes_what_its_source_does(case: Callable[[], Any], tmp_path: Path) -> None:
    model, inputs = case()
    expected = original(model, inputs)
    with intaglio.compile(model, threads=1) as compiled:
        path = compiled.save(tmp_path / "compiled")
        found = compiled(inputs)
    with intaglio.load(path, threads=1) as loaded:
        again = loaded(inputs)
    assert list(found) == list(expected)
    for name, one in expected.items():
        assert (found[name].dtype, found[name].shape) == (one.dtype, one.shape)
        np.testing.assert_allclose(found[name], one, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(again[name], found[name])


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_open_sizes_may_be_anything(make_net: Callable[..., ir.Model], batch: int) -> None:
    with intaglio.compile(make_net(), threads=1) as compiled:
        found = compiled(x=normal(batch, 64), ids=np.zeros(batch, np.int64))
    assert found["y"].shape == (batch, 33)


def test_no_inputs_are_inputs_too() -> None:
    value = numpy_helper.from_array(normal(3))
    model = make_model([helper.make_node("Constant", [], ["y"], value=value)], [], [port("y", FLOAT, [3])])
    with intaglio.compile(model, threads=1) as compiled:
        np.testing.assert_array_equal(compiled()["y"], numpy_helper.to_array(value))
        assert compiled.bench(rounds=1).shapes == {}


def test_bfloat16_is_computed_in_float32() -> None:
    kind, weight = TensorProto.BFLOAT16, normal(16, 8).astype(ml_dtypes.bfloat16)
    node, x = helper.make_node("MatMul", ["x", "w"], ["y"], name="layer"), normal(3, 16)
    model = make_model(
        [node], [port("x", kind, [None, 16])], [port("y", kind, [None, 8])], {"w": weight}, opset=22
    )
    with intaglio.compile(model, threads=1) as compiled:
        found = compiled(x=x.astype(ml_dtypes.bfloat16))["y"]
        assert "float32" in compiled.explain("model").to_text()
        assert "no kernel" in compiled.bench(rounds=1).note
    exact = x.astype(ml_dtypes.bfloat16).astype(np.float32) @ weight.astype(np.float32)
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found, exact.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("plan", "bound"), [("int8-g32", 0.03), ("int4-g32", 0.3), ("int4-channel:a16", 0.4)]
)
def test_layers_are_rounded_by_plan(
    make_net: Callable[..., ir.Model], plan: str, bound: float, dtype: Any
) -> None:
    inputs = {"x": normal(5, 64).astype(dtype), "ids": np.arange(5)}
    with (
        intaglio.compile(make_net(dtype), threads=1) as exact,
        intaglio.compile(make_net(dtype), plan=plan, threads=1) as rounded,
    ):
        wanted, found = exact(inputs)["y"].astype(np.float64), rounded(inputs)["y"]
        assert found.dtype == dtype
        assert rounded.manifest.account.declined == ()
        assert [one["treatment"].split(":")[0] for one in rounded.manifest.sites[1:]] == 3 * [
            plan.split(":")[0]
        ]
    error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    assert 1e-4 < error < bound


def test_a_rounded_layer_is_the_one_of_the_plan(make_net: Callable[..., ir.Model]) -> None:
    """One layer, its arithmetic spelled out."""
    inputs = {"x": normal(5, 64), "ids": np.arange(5)}
    model = make_net()
    names = ("table", "layers.0.dense.weight", "layers.1.dense.weight")
    table, weight, following = (model.graph.initializers[one].const_value.numpy() for one in names)
    with intaglio.compile(model, plan="keep:a16, layers.0.dense=int8-g32", threads=1) as compiled:
        assert "8 bits in blocks of 32" in compiled.explain("layers.0.dense").to_text()
        hidden = compiled(inputs)["hidden"]
    blocks = weight.reshape(160, 2, 32)
    scale = (np.abs(blocks).max(-1, keepdims=True) / 127).astype(np.float16).astype(np.float32)
    codes = np.clip(np.rint(blocks / scale), -128, 127)
    rounded = (codes * scale).reshape(160, 64)
    first = np.maximum(round_activations(inputs["x"] + table[:5], 32) @ rounded.T, 0)
    second = np.maximum(first @ following.T, 0)
    # A weight half-way between two codes may have gone to either.
    assert np.linalg.norm(hidden - second) / np.linalg.norm(second) < 2e-3


def test_what_a_layer_does_not_allow_is_declined() -> None:
    model = make_model(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="layer")],
        [port("x", FLOAT, [None, 20])],
        [port("y", FLOAT, [None, 8])],
        {"w": normal(20, 8)},
    )
    with intaglio.compile(model, plan="int8-g32", threads=1) as compiled:
        assert "does not divide the layer's 20 inputs" in compiled.explain("layer").to_text()


def test_layers_of_a_model_that_keeps_its_opset_stay_as_they_are() -> None:
    """onnxruntime has no kernel for RoiAlign as it is in opset 25."""
    nodes = [
        helper.make_node("RoiAlign", ["x", "regions", "images"], ["r"], output_height=8, output_width=8),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"], name="layer"),
    ]
    weights = {"w": normal(64, 8), "images": np.zeros(2, np.int64)}
    inputs = [port("x", FLOAT, [1, 1, 9, 7]), port("regions", FLOAT, [2, 4])]
    model = make_model(nodes, inputs, [port("y", FLOAT, None)], weights)
    fed = {"x": normal(1, 1, 9, 7), "regions": np.array([[0, 0, 4, 6], [1, 2, 5, 5]], np.float32)}
    with intaglio.compile(model, plan="int4-g32", threads=1) as compiled:
        np.testing.assert_allclose(compiled(fed)["y"], original(model, fed)["y"], rtol=1e-5, atol=1e-5)
        declined = compiled.manifest.account.declined
    assert {one.pass_name for one in declined} == {"normalize_graph", "apply_treatments"}
    assert all("RoiAlign" in one.reason for one in declined)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workload": intaglio.Workload(), "context": 64}, "workload and context without effect"),
        ({"plan": "keep, head=int8-g32"}, "'head'"),
        ({"example_inputs": (1,), "padding": True}, "padding has no effect on ONNX"),
        ({"example_inputs": 3}, "example_inputs is int"),
        ({"padding": "left"}, "padding='left'"),
        ({"threads": 0}, "threads=0"),
    ],
)
def test_options_without_effect_are_refused(
    make_net: Callable[..., ir.Model], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(intaglio.OptionError, match=message):
        intaglio.compile(make_net(), **options)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    for thing in (3, None, [1], tmp_path, tmp_path / "nowhere"):
        with pytest.raises(intaglio.IntaglioError, match="trace"):
            intaglio.compile(thing)  # type: ignore[arg-type]


def test_language_models_alone_generate(net: CompiledGraph) -> None:
    for operation in (net.generate, net.stream, net.evaluate):
        with pytest.raises(
            intaglio.OptionError, match=r"net\.onnx is no language model that generates.*x, ids"
        ):
            operation("hello")
    for name in ("session", "program"):
        with pytest.raises(intaglio.OptionError, match=name):
            getattr(net, name)
    with pytest.raises(intaglio.OptionError, match="prefill"):
        net.bench(prefill=3)


def test_all_misfits_of_a_call_are_listed(net: CompiledGraph) -> None:
    with pytest.raises(intaglio.OptionError) as caught:
        net(x=np.zeros((2, 63)), z=1)
    for part in (
        "'ids' is missing",
        "'z' is no input",
        "is float64, not float32",
        "[2, 63], not float32[batch, 64]",
    ):
        assert part in str(caught.value)
    with pytest.raises(intaglio.OptionError, match="by name"):
        net(normal(2, 64), np.zeros(2, np.int64))


def test_a_closed_model_says_so(net_folder: Path) -> None:
    model = intaglio.load(net_folder, threads=1)
    model.close()
    with pytest.raises(intaglio.OptionError, match="was closed"):
        model(x=normal(1, 64), ids=np.zeros(1, np.int64))


def test_a_graph_is_measured_against_its_source(net: CompiledGraph) -> None:
    found = net.bench(rounds=2)
    assert found.shapes == {"x": [1, 64], "ids": [1]}
    assert found.minimum_seconds <= found.median_seconds <= found.maximum_seconds
    assert found.speedup is not None
    assert 0.01 < found.speedup < 100
    given = net.bench(rounds=1, inputs={"x": normal(7, 64), "ids": np.zeros(7, np.int64)})
    assert given.shapes["x"] == [7, 64]
    with pytest.raises(intaglio.OptionError, match="rounds=0"):
        net.bench(rounds=0)


def test_phases_are_told_and_dumped(make_net: Callable[..., ir.Model], tmp_path: Path) -> None:
    told: list[str] = []
    with intaglio.compile(
        make_net(),
        threads=1,
        dump=tmp_path / "dump",
        progress=lambda phase, index, total: told.append(phase),
    ) as compiled:
        assert (
            told
            == [*compiled.manifest.seconds, "done"]
            == ["trace", "normalize", "quantize", "weights", "partition", "done"]
        )
        folder = compiled.folder
    assert not folder.exists()
    dumped = sorted(one.name for one in (tmp_path / "dump").iterdir())
    assert dumped == ["00-trace.txt", "01-normalize.txt", "02-quantize.txt"]


def test_a_model_given_is_left_as_it_is(make_net: Callable[..., ir.Model]) -> None:
    model = make_net()
    before = ir.to_proto(model).SerializeToString()
    intaglio.compile(model, plan="int4-g32", threads=1).close()
    assert ir.to_proto(model).SerializeToString() == before
