"""What the ONNX front end claims and returns, and that weights stay where they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, parser

from intaglio.backends.onnxruntime.session import OnnxRuntimeSession
from intaglio.compiler.errors import OptionError
from intaglio.compiler.frontends.onnx.frontend import OnnxFrontend
from intaglio.compiler.frontends.tracing import trace
from intaglio.compiler.ir import check

GIB = 2**30


def small(extra: str = "") -> onnx.ModelProto:
    text = f"""<ir_version: 9, opset_import: ["": 19]> adder (float[n, 4] x) => (float[n, 4] y)
        <float[4] w = {{1.0, 2.0, 3.0, 4.0}}> {{ {extra} y = Add(x, w) }}"""
    return parser.parse_model(text)


def with_external(folder: Path, sizes: dict[str, list[int]], location: str = "weights/data.bin") -> Path:
    """A model whose float weights lie one after the other in a file of zeros that takes no room on disk."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])]
    graph = helper.make_graph([], "large", inputs, [])
    end = 0
    for name, shape in sizes.items():
        weight = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
        weight.data_location = TensorProto.EXTERNAL
        nbytes = int(np.prod(shape)) * 4
        for key, value in (("location", location), ("offset", end), ("length", nbytes)):
            weight.external_data.add(key=key, value=str(value))
        end += nbytes
        graph.initializer.append(weight)
        graph.node.append(helper.make_node("Gather", [name, "i"], [f"{name}.row"]))
        graph.output.append(helper.make_tensor_value_info(f"{name}.row", TensorProto.FLOAT, [1, shape[1]]))
    graph.initializer.append(helper.make_tensor("i", TensorProto.INT64, [1], [1]))
    file = folder / location
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as data:
        data.truncate(end)
    path = folder / "model.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]).SerializeToString()
    )
    return path


def test_claims_files_by_name_and_models_in_memory(tmp_path: Path) -> None:
    frontend = OnnxFrontend()
    path = tmp_path / "Model.ONNX"
    path.write_bytes(b"anything")
    assert frontend.claims(path)
    assert frontend.claims(small())
    assert frontend.claims(ir.serde.deserialize_model(small()))
    other = tmp_path / "model.onnxtxt"
    other.write_text("")
    (tmp_path / "folder.onnx").mkdir()
    assert not any(
        frontend.claims(one) for one in (other, tmp_path / "folder.onnx", small().graph, "x.onnx", 3)
    )


def test_claiming_imports_nothing_heavy() -> None:
    code = """
import sys
from pathlib import Path
from intaglio.compiler.frontends.onnx.frontend import OnnxFrontend
assert not OnnxFrontend().claims(object())
assert not OnnxFrontend().claims(Path("nothing.onnx"))
assert not {"onnx", "onnx_ir", "onnxruntime", "torch"} & set(sys.modules), sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_graph_is_called_by_names(tmp_path: Path) -> None:
    path = tmp_path / "adder.onnx"
    path.write_bytes(small().SerializeToString())
    traced = trace(str(path))
    assert (traced.architecture, traced.tokenizer, traced.call, traced.expected) == (None, None, None, None)
    assert (traced.source.name, traced.source.path) == (str(path), path)
    assert traced.source.bytes == path.stat().st_size
    assert [one.name for one in traced.model.graph.inputs] == ["x"]
    check(traced.model, decoder=False)


@pytest.mark.parametrize("kind", ["onnx.ModelProto", "onnx_ir.Model"])
def test_models_in_memory_say_what_they_are(kind: str) -> None:
    model = small() if kind == "onnx.ModelProto" else ir.serde.deserialize_model(small())
    source = trace(model).source
    assert (source.name, source.bytes, source.path) == (f"{kind} adder", 16, None)


def test_unordered_and_unnamed_nodes_are_put_in_order() -> None:
    proto = small("a = Abs(b) b = Neg(x) unused = Exp(a)")
    proto.graph.node[3].input[0] = "a"
    model = trace(proto).model
    check(model, decoder=False)
    assert [(node.op_type, node.name) for node in model.graph] == [("Neg", "b"), ("Abs", "a"), ("Add", "y")]


def test_inputs_with_defaults_become_constants() -> None:
    proto = small()
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4]))
    proto.ir_version = 3
    model = trace(proto).model
    assert [one.name for one in model.graph.inputs] == ["x"]
    result = OnnxRuntimeSession(model, threads=1).run({"x": np.zeros((2, 4), np.float32)})
    np.testing.assert_array_equal(result["y"], [[1, 2, 3, 4]] * 2)


def test_unknown_sizes_are_not_taken_for_equal_ones() -> None:
    proto = small("")
    sizes = proto.graph.input[0].type.tensor_type.shape.dim
    sizes[0].dim_value = -1
    output = proto.graph.output[0].type.tensor_type.shape.dim
    output[0].dim_param = "?"
    model = trace(proto).model
    shapes = [value.shape for value in (*model.graph.inputs, *model.graph.outputs)]
    assert [(one[0].value, one[1]) for one in shapes if one is not None] == [(None, 4), (None, 4)]


def test_the_standard_domain_has_two_names() -> None:
    proto = small("a = Abs(x)")
    for holder in (proto.opset_import[0], *proto.graph.node):
        holder.domain = "ai.onnx"
    proto.graph.node[1].input[0] = "a"
    model = trace(proto).model
    check(model, decoder=False)
    assert {node.domain for node in model.graph} == {""}


def test_inferred_types_and_sizes_are_filled_in() -> None:
    wide = small("a = Transpose(x) z = MatMul(a, x)")
    wide.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    inferred = trace(wide).model
    shape = inferred.graph[0].outputs[0].shape
    assert shape is not None
    assert shape[0] == 4
    assert {node.outputs[0].dtype for node in inferred.graph} == {ir.DataType.FLOAT}


def test_more_than_two_gigabytes_beside_the_model_stay_on_disk(tmp_path: Path) -> None:
    path = with_external(tmp_path, {"first": [GIB // 2, 2], "second": [3, 2]})
    traced = trace(path)
    assert traced.source.bytes == path.stat().st_size + 4 * GIB + 24
    for name in ("first", "second"):
        tensor = traced.model.graph.initializers[name].const_value
        assert isinstance(tensor, ir.ExternalTensor)
        assert tensor.raw is None, "nothing was mapped yet"
    second = traced.model.graph.initializers["second"].const_value
    assert second is not None
    assert second.numpy().shape == (3, 2)


def test_external_data_may_be_a_hard_link_and_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = with_external(folder, {"w": [3, 2]}, "data.bin")
    (folder / "data.bin").write_bytes(np.arange(6, dtype=np.float32).tobytes())
    (tmp_path / "cache.bin").hardlink_to(folder / "data.bin")
    monkeypatch.chdir(folder)
    traced = trace("model.onnx")
    held = trace(ir.load("model.onnx"))
    monkeypatch.chdir("/")
    for model in (traced.model, held.model):
        result = OnnxRuntimeSession(model, threads=1).run({"x": np.zeros((1, 2), np.float32)})
        np.testing.assert_array_equal(result["w.row"], [[2, 3]])
    assert traced.source.bytes == path.stat().st_size + 24


def test_links_of_a_hub_cache_are_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    with_external(blobs, {"w": [3, 2]}, "data.bin").rename(blobs / "c0ffee")
    (blobs / "data.bin").rename(blobs / "beef")
    (snapshot / "model.onnx").symlink_to("../../blobs/c0ffee")
    (snapshot / "data.bin").symlink_to("../../blobs/beef")
    traced = trace(snapshot / "model.onnx")
    weight = traced.model.graph.initializers["w"].const_value
    assert weight is not None
    np.testing.assert_array_equal(weight.numpy(), np.zeros((3, 2), np.float32))
    assert traced.source.bytes == (blobs / "c0ffee").stat().st_size + 24


def test_nothing_at_a_path(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"there is no .*none\.onnx"):
        trace(tmp_path / "none.onnx")
