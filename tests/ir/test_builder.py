"""GraphBuilder makes valid graphs with the names it was asked for."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from intaglio.compiler.ir import DOMAIN, OPSET, GraphBuilder, check

FLOAT = ir.DataType.FLOAT


def names(graph: ir.Graph) -> list[str | None]:
    return [value.name for node in graph for value in node.outputs]


def test_a_small_graph_passes_the_checker() -> None:
    builder = GraphBuilder("tiny")
    x = builder.input("x", FLOAT, ["batch", 5])
    weight = builder.initializer("layers.0.weight", np.ones((5, 3), np.float32))
    y = builder.node("MatMul", [x, weight], name="layers.0.projection", dtype=FLOAT, shape=["batch", 3])
    builder.output(y, "y")
    model = builder.model()
    check(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert model.opset_imports == {"": OPSET}
    assert [node.name for node in model.graph] == ["layers.0.projection"]
    assert names(model.graph) == ["y"]


def test_names_stay_unique() -> None:
    builder = GraphBuilder()
    x = builder.input("x", FLOAT, [3])
    values = [builder.node("Abs", [x], name="same") for _ in range(3)]
    parts = builder.nodes("Split", [x], {"axis": 0, "num_outputs": 2}, outputs=2, name="same")
    assert [one.name for one in values] == ["same", "same.2", "same.3"]
    assert [one.name for one in parts] == ["same.0", "same.1"]
    assert builder.node("Abs", [x], name="x").name == "x.2"


def test_equal_constants_are_made_once() -> None:
    builder = GraphBuilder()
    assert builder.integers([1, -1]) is builder.integers([1, -1])
    assert builder.integers([1]) is not builder.integer(1)
    assert builder.constant(np.array(1.0, np.float32)) is not builder.constant(np.array(1.0, np.float64))
    assert len(builder.graph.initializers) == 5


def test_lazy_and_packed_tensors_are_not_read() -> None:
    def explode() -> ir.TensorProtocol:
        raise AssertionError("a lazy tensor was read")

    builder = GraphBuilder()
    lazy = ir.LazyTensor(explode, ir.DataType.FLOAT16, ir.Shape([2, 3]))
    packed = ir.PackedTensor(np.zeros(3, np.uint8), ir.DataType.UINT4, shape=[2, 3])
    first, second = builder.initializer("lazy", lazy), builder.initializer("packed", packed)
    assert (first.dtype, first.shape) == (ir.DataType.FLOAT16, ir.Shape([2, 3]))
    assert (second.dtype, second.shape) == (ir.DataType.UINT4, ir.Shape([2, 3]))
    assert second.const_value is packed


def test_bits_of_bfloat16() -> None:
    builder = GraphBuilder()
    value = builder.initializer("half", np.array([0x3F80], np.uint16), ir.DataType.BFLOAT16)
    assert value.dtype == ir.DataType.BFLOAT16
    assert value.const_value is not None
    assert float(value.const_value.numpy()[0]) == 1.0


def test_function_bodies_take_constants_as_nodes() -> None:
    builder = GraphBuilder("Twice", constants="node")
    x = ir.Value(name="x")
    builder.graph.inputs.append(x)
    builder.output(builder.node("Mul", [x, builder.constant(np.array(2.0, np.float32))]), "result")
    function = builder.function("Twice", overload="f00")
    assert function.identifier() == (DOMAIN, "Twice", "f00")
    assert [node.op_type for node in function] == ["Constant", "Mul"]


def test_function_bodies_refuse_initializers() -> None:
    builder = GraphBuilder("Twice")
    builder.integers([1])
    with pytest.raises(AssertionError, match="constants='node'"):
        builder.function("Twice")


def test_extend_inserts_before_a_node_and_knows_its_names() -> None:
    builder = GraphBuilder()
    x = builder.input("x", FLOAT, [3])
    last = builder.node("Abs", [x], name="last")
    builder.output(last)
    node = last.producer()
    assert node is not None
    more = GraphBuilder.extend(builder.graph, before=node)
    added = more.node("Neg", [x], name="last")
    node.replace_input_with(0, added)
    assert names(builder.graph) == ["last.2", "last"]
    check(builder.model())


def test_calls_import_their_domain() -> None:
    builder = GraphBuilder()
    x = builder.input("x", FLOAT, [3])
    builder.node("SwiGLU", [x, x], domain=DOMAIN)
    assert builder.graph.opset_imports == {"": OPSET, DOMAIN: 1}
