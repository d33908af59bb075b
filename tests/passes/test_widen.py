"""16-bit graphs in float32: what changes, and what stays."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from intaglio.backends.onnxruntime import OnnxRuntimeSession
from intaglio.compiler.errors import OptionError
from intaglio.compiler.ir import GraphBuilder, check
from intaglio.passes.linears import find_linears
from intaglio.passes.widen import WidenBfloat16, WidenLinears

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((3, 8)).astype(np.float32)


def narrow(dtype: np.dtype) -> tuple[ir.Model, np.ndarray]:
    """`y = x · Wᵀ + half`, everything of `dtype`, the constant inside a node."""
    builder, kind = GraphBuilder(constants="node"), ir.DataType.from_numpy(dtype)
    weight = RANDOM.standard_normal((5, 8)).astype(dtype)
    x = builder.input("x", kind, ["batch", 8])
    transposed = builder.node(
        "Transpose", [builder.initializer("layer.weight", weight)], {"perm": [1, 0]}, dtype=kind, shape=[8, 5]
    )
    product = builder.node("MatMul", [x, transposed], name="layer", dtype=kind, shape=["batch", 5])
    half = builder.node("Constant", [], {"value": ir.tensor(np.array(0.5, dtype))}, dtype=kind, shape=[])
    cast = builder.node("Cast", [half], {"to": int(kind)}, dtype=kind, shape=[])
    builder.output(builder.node("Add", [product, cast], name="y", dtype=kind, shape=["batch", 5]))
    return builder.model(), weight


def test_bfloat16_becomes_float32_everywhere() -> None:
    model, weight = narrow(np.dtype(ml_dtypes.bfloat16))
    result = WidenBfloat16()(model)
    check(model)
    assert [one.site for one in result.applied] == ["model"]
    assert {one.dtype for one in (*model.graph.inputs, *model.graph.outputs)} == {ir.DataType.FLOAT}
    assert model.graph.initializers["layer.weight"].dtype == ir.DataType.BFLOAT16
    found = OnnxRuntimeSession(model, threads=1).run({"x": X})["y"]
    np.testing.assert_allclose(found, X @ weight.astype(np.float32).T + 0.5, rtol=1e-5, atol=1e-5)


def test_bodies_are_widened_too() -> None:
    kind = ir.DataType.BFLOAT16
    builder = GraphBuilder()
    go = builder.input("go", ir.DataType.BOOL, [])
    x = builder.input("x", kind, ["n"])
    bodies = {}
    for name, factor in (("then_branch", 2), ("else_branch", 3)):
        body = GraphBuilder(name)
        stored = body.initializer(f"{name}.factor", np.array(factor, ml_dtypes.bfloat16))
        body.output(body.node("Mul", [x, stored], name=name, dtype=kind, shape=["n"]))
        bodies[name] = ir.AttrGraph(name, body.graph)
    builder.output(builder.node("If", [go], bodies, name="y", dtype=kind, shape=["n"]))
    model = builder.model()
    WidenBfloat16()(model)
    session = OnnxRuntimeSession(model, threads=1)
    for choice, factor in ((True, 2), (False, 3)):
        np.testing.assert_array_equal(session.run({"go": np.array(choice), "x": X[0]})["y"], factor * X[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_other_types_stay(dtype: type) -> None:
    model, _ = narrow(np.dtype(dtype))
    before = ir.to_proto(model).SerializeToString()
    assert not WidenBfloat16()(model).modified
    assert ir.to_proto(model).SerializeToString() == before


def test_layers_are_widened_by_name() -> None:
    model, weight = narrow(np.dtype(np.float16))
    assert not WidenLinears()(model).modified
    result = WidenLinears(["layer"])(model)
    check(model)
    assert [one.site for one in result.applied] == ["layer"]
    (linear,) = find_linears(model)
    assert linear.weight.value.dtype == linear.output.dtype == ir.DataType.FLOAT
    assert linear.weight.format == "float float16"
    found = OnnxRuntimeSession(model, threads=1).run({"x": X.astype(np.float16)})["y"]
    exact = (X.astype(np.float16).astype(np.float32) @ weight.astype(np.float32).T).astype(np.float16)
    assert found.dtype == np.float16
    # onnxruntime leaves out a rounding to 16 bits between two of its float32 kernels.
    np.testing.assert_allclose(found, exact + np.float16(0.5), rtol=2e-3, atol=1e-3)
    assert not WidenLinears(["layer"])(model).modified
    with pytest.raises(OptionError, match="'other'"):
        WidenLinears(["other"])(model)


def test_float32_layers_stay() -> None:
    model, _ = narrow(np.dtype(np.float32))
    assert not WidenLinears(["layer"])(model).modified
