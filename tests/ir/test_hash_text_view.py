"""Hash, text form, networkx view and dumps of one small graph and its variations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.ir import (
    DOMAIN,
    Dump,
    GraphBuilder,
    quantize_activation,
    structural_hash,
    swiglu,
    to_networkx,
    to_text,
)

FLOAT = ir.DataType.FLOAT


def mlp(
    *,
    prefix: str = "mlp",
    seed: int = 0,
    width: int = 5,
    dtype: type = np.float32,
    axis: int = -1,
    sizes: tuple[int, ...] = (2, 1),
    shared: bool = False,
) -> ir.Model:
    random = np.random.default_rng(seed)
    builder = GraphBuilder(prefix)
    x = builder.input(f"{prefix}.x", FLOAT, ["batch", width])
    first = builder.initializer(f"{prefix}.first", random.standard_normal((width, 3)).astype(dtype))
    other = builder.initializer(f"{prefix}.second", random.standard_normal((width, 3)).astype(dtype))
    gate = builder.node("MatMul", [x, first], name=f"{prefix}.gate")
    up = builder.node("MatMul", [x, first if shared else other], name=f"{prefix}.up")
    y = builder.node("SwiGLU", [gate, up], domain=DOMAIN)
    y = builder.node("Softmax", [y], {"axis": axis}, name=f"{prefix}.softmax")
    for part in builder.nodes("Split", [y, builder.integers(sizes)], {"axis": -1}, outputs=2):
        builder.output(part)
    return builder.model([swiglu()])


def test_the_hash_ignores_names_and_weight_values() -> None:
    assert structural_hash(mlp().graph) == structural_hash(mlp(prefix="layers.7", seed=9).graph)


@pytest.mark.parametrize(
    "change",
    [{"width": 6}, {"dtype": np.float16}, {"axis": 0}, {"sizes": (1, 2)}, {"shared": True}],
    ids=str,
)
def test_the_hash_sees_structure(change: dict[str, object]) -> None:
    assert structural_hash(mlp().graph) != structural_hash(mlp(**change).graph)  # type: ignore[arg-type]


def test_the_hash_ignores_the_order_of_independent_nodes() -> None:
    model, moved = mlp(), mlp()
    gate, up = list(moved.graph)[:2]
    moved.graph.remove(up)
    moved.graph.insert_before(gate, up)
    assert structural_hash(model.graph) == structural_hash(moved.graph)


def difference(first: str, second: str) -> ir.Graph:
    builder = GraphBuilder()
    values = {name: builder.input(name, FLOAT, [3]) for name in ("a", "b")}
    builder.output(builder.node("Sub", [values[first], values[second]]))
    builder.output(values["a"])
    return builder.graph


def test_the_hash_sees_the_order_of_inputs_and_outputs() -> None:
    graph, swapped, turned = difference("a", "b"), difference("b", "a"), difference("a", "b")
    turned.outputs[:] = list(turned.outputs)[::-1]
    assert len({structural_hash(one) for one in (graph, swapped, turned)}) == 3


def test_functions_have_hashes_of_their_bodies() -> None:
    assert structural_hash(swiglu()) == structural_hash(swiglu())
    assert structural_hash(swiglu()) != structural_hash(quantize_activation())


def test_the_hash_refuses_subgraphs() -> None:
    builder = GraphBuilder()
    condition = builder.input("condition", ir.DataType.BOOL, [])
    branch = mlp().graph
    attributes = {"then_branch": ir.AttrGraph("then_branch", branch)}
    builder.output(builder.node("If", [condition], attributes))
    with pytest.raises(UnsupportedModelError, match="then_branch"):
        structural_hash(builder.graph)


def test_the_text_form() -> None:
    assert to_text(mlp()) == (
        "model: onnx 25, intaglio 1\n"
        "\n"
        "graph mlp(mlp.x: float32[batch, 5]) -> (Split.0: ?, Split.1: ?)\n"
        "  weight constant.int64.2[2,1]: int64[2] = [2, 1]\n"
        "  weight mlp.first: float32[5, 3] (60 bytes)\n"
        "  weight mlp.second: float32[5, 3] (60 bytes)\n"
        "  mlp.gate: ? = MatMul(mlp.x, mlp.first)\n"
        "  mlp.up: ? = MatMul(mlp.x, mlp.second)\n"
        "  SwiGLU: ? = intaglio.SwiGLU(mlp.gate, mlp.up)\n"
        "  mlp.softmax: ? = Softmax(SwiGLU) axis=-1\n"
        "  Split.0: ?, Split.1: ? = Split(mlp.softmax, constant.int64.2[2,1]) axis=-1\n"
        "\n"
        "function intaglio.SwiGLU(gate: ?, up: ?) -> (result: ?)\n"
        "  val_0: ? = Sigmoid(gate)\n"
        "  val_1: ? = Mul(gate, val_0)\n"
        "  result: ? = Mul(val_1, up)\n"
    )


def test_attributes_are_readable() -> None:
    builder = GraphBuilder()
    x = builder.input("x", FLOAT, [3])
    scale = builder.initializer("scale", np.ones(3, np.float32))
    cast = builder.node("Cast", [x], {"to": int(ir.DataType.FLOAT16)})
    builder.output(builder.node("RMSNormalization", [cast, scale], {"epsilon": 1e-5, "axis": -1}))
    text = to_text(builder.model())
    assert "Cast: ? = Cast(x) to=float16\n" in text
    assert "RMSNormalization(Cast, scale) axis=-1 epsilon=1e-05\n" in text


def test_the_text_form_never_reads_large_weights() -> None:
    def explode() -> ir.TensorProtocol:
        raise AssertionError("a lazy tensor was read")

    builder = GraphBuilder()
    builder.initializer("large", ir.LazyTensor(explode, ir.DataType.UINT4, ir.Shape([512, 64])))
    assert "weight large: uint4[512, 64] (16384 bytes)" in to_text(builder.model())


def test_the_networkx_view() -> None:
    graph = mlp().graph
    view = to_networkx(graph)
    nodes = {node.op_type: node for node in graph}
    assert view.number_of_nodes() == 5
    assert view.number_of_edges() == 4
    edge = view.edges[nodes["SwiGLU"], nodes["Softmax"]]
    assert [value.name for value in edge["values"]] == ["SwiGLU"]
    assert view.nodes[nodes["Softmax"]] == {"operator": "Softmax", "name": "mlp.softmax"}


def test_the_view_joins_several_values_between_two_nodes() -> None:
    builder = GraphBuilder()
    x = builder.input("x", FLOAT, [4])
    first, second = builder.nodes("Split", [x], {"axis": 0, "num_outputs": 2}, outputs=2)
    builder.output(builder.node("Sum", [first, second, first]))
    ((_, _, passed),) = to_networkx(builder.graph).edges(data="values")
    assert passed == (first, second)


def test_dumps_are_numbered(tmp_path: Path) -> None:
    dump = Dump(tmp_path / "phases")
    model = mlp()
    dump("traced", model)
    dump("fuse/outline", model)
    assert sorted(one.name for one in (tmp_path / "phases").iterdir()) == [
        "00-traced.txt",
        "01-fuse-outline.txt",
    ]
    assert (tmp_path / "phases" / "00-traced.txt").read_text(encoding="utf-8") == to_text(model)


def test_no_folder_no_dump() -> None:
    assert Dump(None)("traced", mlp()) is None
