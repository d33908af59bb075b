"""Graphs of fixed shapes in kernels of our own, against onnxruntime on the same graph."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from intaglio.backends.onnxruntime import OnnxRuntimeSession, bind_region, write_region
from intaglio.backends.tvm.graph_session import GraphSession
from intaglio.backends.tvm.graphs import CallKey, GraphProgram, key_of, lower_graph
from intaglio.compiler.errors import ArtifactError
from intaglio.cost_models import resolve_target
from intaglio.passes.fix_shapes import fixed_model
from intaglio.passes.normalize import normalize_graph

RANDOM = np.random.default_rng(3)
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
TOLERANCE = 2e-5  # of the largest output: float32 sums of up to a few hundred terms in another order
Nodes = Sequence[onnx.NodeProto]
Arrays = Mapping[str, np.ndarray]
Case = tuple[Nodes, Arrays, Arrays, str]  # nodes, weights, inputs, what all nodes but views run in
node = helper.make_node


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def images() -> Case:
    """Convolutions of every kind, with what follows: hard swish spelled out, a gate, a residual sum."""
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Add", ["c0", "three"], ["a0"]),
        node("Clip", ["a0", "zero", "six"], ["k0"]),
        node("Mul", ["c0", "k0"], ["m0"]),
        node("Div", ["m0", "six"], ["s0"]),
        node("Conv", ["s0", "w1"], ["c1"], group=20, pads=[2, 2, 2, 2]),
        node("BatchNormalization", ["c1", "scale", "bias", "mean", "variance"], ["n1"]),
        node("Relu", ["n1"], ["r1"]),
        node("GlobalAveragePool", ["r1"], ["p1"]),
        node("Conv", ["p1", "w2", "b2"], ["g1"]),
        node("HardSigmoid", ["g1"], ["g2"]),
        node("Mul", ["r1", "g2"], ["e1"]),
        node("Add", ["e1", "s0"], ["t1"]),
        node("MaxPool", ["t1"], ["q1"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        node(
            "Resize",
            ["q1", "", "", "sizes"],
            ["z1"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        node("Concat", ["z1", "s0"], ["k1"], axis=1),
        node("ConvTranspose", ["k1", "w3", "b3"], ["y"], strides=[2, 2]),
    ]
    weights = {
        "w0": normal(20, 3, 3, 3), "b0": normal(20), "w1": normal(20, 1, 5, 5), "w2": normal(20, 20, 1, 1),
        "b2": normal(20), "w3": normal(40, 7, 2, 2), "b3": normal(7), "scale": normal(20), "bias": normal(20),
        "mean": normal(20), "variance": np.abs(normal(20)) + 0.5, "three": np.float32(3),
        "zero": np.float32(0), "six": np.float32(6), "sizes": np.array([1, 20, 9, 11]),
    }  # fmt: skip
    return nodes, weights, {"x": normal(1, 3, 17, 21)}, "all"


def signals() -> Case:
    """One dimension, two signals at once, dilated and grouped; a transposition before a product."""
    nodes = [
        node("Conv", ["x", "w0"], ["c0"], dilations=[3], pads=[3, 3], group=2),
        node("LeakyRelu", ["c0"], ["l0"], alpha=0.2),
        node("Transpose", ["l0"], ["t0"], perm=[0, 2, 1]),
        node("LayerNormalization", ["t0", "scale", "bias"], ["n0"]),
        node("MatMul", ["n0", "w1"], ["m0"]),
        node("Add", ["m0", "b1"], ["a0"]),
        node("Softmax", ["a0"], ["y"]),
    ]
    weights = {
        "w0": normal(6, 2, 3), "scale": normal(6), "bias": normal(6), "w1": normal(6, 19), "b1": normal(19),
    }  # fmt: skip
    return nodes, weights, {"x": normal(2, 4, 23)}, "all"


def encoder() -> Case:
    """Embeddings, attention under a mask, norms and residual sums."""
    nodes = [
        node("Gather", ["table", "ids"], ["e"]),
        node("LayerNormalization", ["e", "scale", "bias"], ["n"]),
        *(node("MatMul", ["n", f"w{one}"], [f"{one}0"]) for one in "qkv"),
        *(node("Add", [f"{one}0", f"b{one}"], [f"{one}1"]) for one in "qkv"),
        *(node("Reshape", [f"{one}1", "heads"], [f"{one}2"]) for one in "qkv"),
        *(node("Transpose", [f"{one}2"], [f"{one}3"], perm=[0, 2, 1, 3]) for one in "qkv"),
        node("Cast", ["mask"], ["seen"], to=BOOL),
        node("Unsqueeze", ["seen", "axes"], ["wide"]),
        node("Attention", ["q3", "k3", "v3", "wide"], ["o3"]),
        node("Transpose", ["o3"], ["o2"], perm=[0, 2, 1, 3]),
        node("Reshape", ["o2", "tokens"], ["o1"]),
        node("MatMul", ["o1", "wo"], ["o0"]),
        node("Add", ["o0", "n"], ["r"]),
        node("MatMul", ["r", "wf"], ["f"]),
        node("Gelu", ["f"], ["y"]),
    ]
    weights = {
        "table": normal(50, 32), "scale": normal(32), "bias": normal(32), "heads": np.array([0, -1, 2, 16]),
        "axes": np.array([1, 2]), "tokens": np.array([0, -1, 32]), "wo": normal(32, 32), "wf": normal(32, 40),
        **{f"w{one}": normal(32, 32) / 6 for one in "qkv"}, **{f"b{one}": normal(32) for one in "qkv"},
    }  # fmt: skip
    mask = np.ones((2, 13), np.int64)
    mask[1, 7:] = 0
    return nodes, weights, {"ids": RANDOM.integers(-50, 50, (2, 13)), "mask": mask}, "all"


def tensors() -> Case:
    """Broadcasting, reductions, paddings, slices; a part that onnxruntime keeps in the middle."""
    nodes = [
        node("ReduceMean", ["x", "last"], ["m"], keepdims=1),
        node("Sub", ["x", "m"], ["d"]),
        node("Pow", ["d", "two"], ["p"]),
        node("ReduceSum", ["p", "first"], ["s"], keepdims=0),
        node("Slice", ["s", "one", "end", "first", "step"], ["l"]),
        node("CumSum", ["l", "zero"], ["c"]),
        node("Sigmoid", ["c"], ["g"]),
        node("Pad", ["g", "pads", "three"], ["a"]),
        node("Add", ["a", "column"], ["y"]),
        node("Greater", ["c", "three"], ["b"]),
    ]
    weights = {
        "last": np.array([2]), "first": np.array([0]), "two": np.float32(2), "one": np.array([1]),
        "end": np.array([9]), "step": np.array([2]), "zero": np.array(0), "pads": np.array([1, 0, 2, 3]),
        "three": np.float32(3), "column": normal(6, 1),
    }  # fmt: skip
    return nodes, weights, {"x": normal(4, 7, 5)}, "mixed"


CASES = (images, signals, encoder, tensors)


def model_of(nodes: Nodes, weights: Arrays, inputs: Arrays, outputs: Sequence[str]) -> ir.Model:
    kinds = {"float32": FLOAT, "int64": INT64}
    ports = [
        helper.make_tensor_value_info(name, kinds[str(one.dtype)], [None] * one.ndim)
        for name, one in inputs.items()
    ]
    results = [helper.make_tensor_value_info(name, BOOL if name == "b" else FLOAT, None) for name in outputs]
    stored = [numpy_helper.from_array(np.asarray(one), name) for name, one in weights.items()]
    graph = helper.make_graph(nodes, "graph", ports, results, stored)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)]))


def fixed(model: ir.Model, call: Arrays) -> tuple[ir.Model, CallKey]:
    key = key_of(call)
    return fixed_model(model, key.shapes, key.fixed), key


@pytest.fixture
def opened(tmp_path: Path, quick_build: Callable[..., None]) -> Callable[..., Any]:
    """`opened(model, calls, …) -> (session, lowered)`."""

    def opened(model: ir.Model, calls: Sequence[Arrays], threads: int = 1, **options: Any) -> Any:
        lowered = lower_graph([fixed(model, one) for one in calls], **options)
        quick_build(lowered.program, resolve_target("cpu"), tmp_path / "program.so")
        lowered.write_weights(tmp_path / "weights.bin")
        for one in lowered.regions:
            write_region(one.model, tmp_path, Path(one.file).stem)
        session = GraphSession(
            GraphProgram.from_json(lowered.program.to_json()),
            folder=tmp_path,
            weights=tmp_path / "weights.bin",
            library=tmp_path / "program.so",
            threads=threads,
            regions=functools.partial(bind_region, threads=1),
        )
        return session, lowered

    return opened


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CASES, ids=lambda one: one.__name__)
def test_programs_compute_what_the_graph_says(opened: Any, case: Callable[[], Case], threads: int) -> None:
    nodes, weights, inputs, where = case()
    names = ["y", "b", "s"] if where == "mixed" else ["y"]
    model = model_of(nodes, weights, inputs, names)
    wanted = OnnxRuntimeSession(model, threads=1).run(inputs)
    session, lowered = opened(normalize_graph(model).model, [inputs], threads)
    for _ in range(2):  # the second call finds what the first one left
        found = session.run(inputs)
        for name, array in wanted.items():
            assert found[name].shape == array.shape, name
            assert found[name].dtype == array.dtype, name
            error = np.abs(found[name].astype(np.float64) - array).max()
            assert error <= TOLERANCE * np.abs(array.astype(np.float64)).max(), name
    assert bool(lowered.regions) == (where == "mixed")
    session.close()


def test_each_shape_has_a_table_and_weights_are_stored_once(opened: Any) -> None:
    nodes, weights, first, _ = encoder()
    second = {name: one[:1, :5] for name, one in first.items()}
    model = normalize_graph(model_of(nodes, weights, first, ["y"])).model
    session, lowered = opened(model, [first, second])
    alone = lower_graph([fixed(model, first)])
    assert lowered.program.weight_bytes == alone.program.weight_bytes
    for call in (first, second):
        wanted = OnnxRuntimeSession(model, threads=1).run(call)["y"]
        assert np.abs(session.run(call)["y"] - wanted).max() <= TOLERANCE * np.abs(wanted).max()
    assert not session.fits({name: one[:, :3] for name, one in first.items()})
    session.close()


def test_kinds_of_kernels_are_given_back(opened: Any) -> None:
    nodes, weights, inputs, _ = encoder()
    model = normalize_graph(model_of(nodes, weights, inputs, ["y"])).model
    session, lowered = opened(model, [inputs], without=frozenset({"attention", "norm"}))
    assert {"attention", "norm"}.isdisjoint(lowered.nodes.values())
    wanted = OnnxRuntimeSession(model, threads=1).run(inputs)["y"]
    assert np.abs(session.run(inputs)["y"] - wanted).max() <= TOLERANCE * np.abs(wanted).max()
    session.close()


def test_branches_and_numbers_are_compiled_in() -> None:
    then, other = (
        helper.make_graph([node(op, ["x"], ["r"])], op, [], [helper.make_tensor_value_info("r", FLOAT, None)])
        for op in ("Neg", "Abs")
    )
    nodes = [
        node("Equal", ["rate", "sixteen"], ["c"]),
        node("If", ["c"], ["y"], name="choice", then_branch=then, else_branch=other),
    ]
    call = {"x": normal(3), "rate": np.array(16)}
    model = model_of(nodes, {"sixteen": np.array(16)}, call, ["y"])
    for rate, op in ((16, "Neg"), (8, "Abs")):
        chosen, _ = fixed(model, {**call, "rate": np.array(rate)})
        assert [one.op_type for one in chosen.graph] == [op]
    assert any(one.op_type == "If" for one in model.graph)


def test_programs_of_other_versions_are_refused() -> None:
    with pytest.raises(ArtifactError, match="not a program of this version"):
        GraphProgram.from_json('{"kernels": []}')
