"""Regions of onnxruntime: written, opened, run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from intaglio.backends.onnxruntime import Port, RegionSession, write_region
from intaglio.compiler.errors import OptionError
from intaglio.compiler.ir import GraphBuilder

RANDOM = np.random.default_rng(0)


def linear(rows: int = 3, columns: int = 5) -> tuple[ir.Model, np.ndarray]:
    """`y = relu(x · Wᵀ)`, its weight made only when it is read."""
    weight = RANDOM.standard_normal((rows, columns)).astype(np.float32)
    lazy = ir.LazyTensor(lambda: ir.tensor(weight), ir.DataType.FLOAT, ir.Shape(weight.shape))
    builder = GraphBuilder()
    x = builder.input("x", ir.DataType.FLOAT, ["batch", columns])
    transposed = builder.node("Transpose", [builder.initializer("weight", lazy)], {"perm": [1, 0]})
    product = builder.node("MatMul", [x, transposed], name="layer")
    builder.output(builder.node("Relu", [product], name="y", dtype=ir.DataType.FLOAT, shape=["batch", rows]))
    return builder.model(), weight


@pytest.mark.parametrize(("rows", "files"), [(3, {"r.onnx"}), (700, {"r.onnx", "r.weights"})])
def test_a_region_runs_from_its_files(tmp_path: Path, rows: int, files: set[str]) -> None:
    model, weight = linear(rows)
    assert set(write_region(model, tmp_path, "r")) == files == {one.name for one in tmp_path.iterdir()}
    session = RegionSession(tmp_path / "r.onnx", threads=1)
    assert session.inputs == {"x": Port(np.dtype("float32"), ("batch", 5))}
    assert session.outputs == {"y": Port(np.dtype("float32"), ("batch", rows))}
    for batch in (0, 1, 7):
        x = RANDOM.standard_normal((batch, 5)).astype(np.float32)
        np.testing.assert_allclose(session.run({"x": x})["y"], np.maximum(x @ weight.T, 0), atol=1e-5)


def test_the_model_stays_as_it_is(tmp_path: Path) -> None:
    model, _ = linear()
    before = [node.op_type for node in model.graph]
    write_region(model, tmp_path, "r")
    assert [node.op_type for node in model.graph] == before
    assert isinstance(model.graph.initializers["weight"].const_value, ir.LazyTensor)


def test_wrong_inputs_are_refused(tmp_path: Path) -> None:
    write_region(linear()[0], tmp_path, "r")
    session = RegionSession(tmp_path / "r.onnx", threads=1)
    for inputs in ({}, {"x": np.zeros((2, 4), np.float32)}, {"x": np.zeros((2, 5))}):
        with pytest.raises(OptionError, match="does not fit"):
            session.run(inputs)
    with pytest.raises(OptionError, match="threads=0"):
        RegionSession(tmp_path / "r.onnx", threads=0)
