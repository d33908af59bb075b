"""Broken ONNX models: everything wrong is listed at once, and no bytes crash or hang."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, parser

from intaglio.compiler.errors import IntaglioError, ModelFileError, OptionError, UnsupportedModelError
from intaglio.compiler.frontends.frontend import TraceOptions
from intaglio.compiler.frontends.tracing import trace

HEAD = '<ir_version: 10, opset_import: ["": 21]>'


def parsed(
    body: str, head: str = HEAD, inputs: str = "float[n, 4] x", functions: str = ""
) -> onnx.ModelProto:
    return parser.parse_model(f"{head} test ({inputs}) => (float[n, 4] y) {{ {body} }} {functions}")


def fails(model: object, *parts: str, kind: type[IntaglioError] = ModelFileError) -> None:
    with pytest.raises(kind) as caught:
        trace(model)
    message = str(caught.value)
    assert message.startswith("onnx: ")
    assert [part for part in parts if part not in message] == []


def test_everything_wrong_is_listed_at_once() -> None:
    model = parsed(
        "a = Add(x, nowhere) b = Relu(c) c = Relu(b) d = Softmax<axes=[1]>(x) e = Clip() f = Unheard(x)"
        "a = Abs(x) g = other.Op(x) y = Concat(a, c)"
    )
    model.graph.output.append(helper.make_tensor_value_info("missing", TensorProto.FLOAT, [1]))
    fails(
        model,
        "Add 'a' uses 'nowhere', which is not defined",
        "a cycle: Relu 'b' → Relu 'c' → Relu 'b'",
        "Softmax 'd' has attribute 'axes', which the op does not",
        "Clip 'e' has 0 inputs; the op takes 1 to 3",
        "Concat 'y' lacks attribute 'axis'",
        "2 values are named 'a'",
        "nothing produces output 'missing'",
        "domain 'other' of Op 'g' is not imported",
        "opset 21 has no op Unheard",
    )


def test_attributes_of_the_wrong_type_are_named() -> None:
    model = parsed("y = Softmax<axis=1.5>(x)")
    fails(model, "Softmax 'y' has attribute 'axis' of type FLOAT; it is INT")


def test_cycles_through_subgraphs_are_found() -> None:
    model = parsed(
        """b = If (c) < then_branch = t () => (p) { p = Abs(y) }, else_branch = e () => (q) { q = Abs(x) } >
           y = Relu(b)""",
        inputs="float[n, 4] x, bool c",
    )
    fails(model, "graph: a cycle: If 'b' → Relu 'y' → If 'b'")


def test_subgraphs_are_checked_in_their_scope() -> None:
    model = parsed(
        """y = If (c) < then_branch = t () => (p) { p = Add(x, lost) }, else_branch = e () => (x) { } >""",
        inputs="float[n, 4] x, bool c",
    )
    fails(model, "Add 'p' uses 'lost', which is not defined", "If 'y': nothing produces output 'x'")


def test_unknown_ops_and_opsets_are_unsupported() -> None:
    head = '<ir_version: 10, opset_import: ["": 10, "com.microsoft": 1, "mine": 1]>'
    model = parsed("a = mine.Special(x) b = com.microsoft.Nothing(a) y = com.microsoft.QuickGelu(b)", head)
    fails(
        model,
        "opset 10 is older than 11",
        "neither the model nor onnxruntime defines mine.Special",
        "neither the model nor onnxruntime defines com.microsoft.Nothing",
        kind=UnsupportedModelError,
    )
    newest = onnx.defs.onnx_opset_version() + 1
    late = parsed("y = Abs(x)", f'<ir_version: 10, opset_import: ["": {newest}]>')
    fails(late, f"opset {newest} is newer than", "update onnx", kind=UnsupportedModelError)
    fails(parsed("y = Upsample(x, x)"), "opset 21 has dropped Upsample", kind=UnsupportedModelError)


def test_functions_must_end_and_know_their_attributes() -> None:
    head = '<ir_version: 10, opset_import: ["": 21, "local": 1]>'
    functions = """
        <domain: "local", opset_import: ["": 21, "local": 1]> one (v) => (w) { w = local.two(v) }
        <domain: "local", opset_import: ["": 21, "local": 1]> two (v) => (w) { w = local.one(v) }
        <domain: "local", opset_import: ["": 21]> three (v) => (w) { w = Softmax<axis: int = @axis>(v) }
    """
    model = parsed("a = local.one(x) y = local.three(a)", head, functions=functions)
    fails(
        model,
        "function local.one calls itself",
        "function local.two calls itself",
        "function local.three: Softmax 'w' refers to attribute 'axis', which is not there",
    )


def test_types_that_do_not_fit_are_found() -> None:
    model = parsed("i = Cast<to=7>(x) y = Add(x, i)")
    fails(model, "do not fit together", "Add")
    fails(parsed("i = Cast<to=7>(x) y = Sin(i)"), "do not fit together", "Sin", "int64")


def test_strings_sequences_and_sparse_tensors_are_refused_by_name() -> None:
    model = parsed("s = SequenceConstruct(x) y = Abs(x)", inputs="float[n, 4] x, string[n] words")
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    model.graph.output.append(sequence)
    model.graph.initializer.append(helper.make_tensor("names", TensorProto.STRING, [1], [b"a"]))
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("few", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("at", TensorProto.INT64, [1], [2]),
        [4],
    )
    model.graph.sparse_initializer.append(sparse)
    fails(
        model,
        "input 'words' is a tensor of strings",
        "output 's' is a sequence",
        "initialiser 'names' holds strings",
        "initialiser 'few' is sparse",
        kind=UnsupportedModelError,
    )


def test_initialisers_must_fit_their_bytes_and_declarations() -> None:
    model = parsed("y = Add(x, short)")
    stored = model.graph.initializer
    stored.append(TensorProto(name="short", data_type=TensorProto.FLOAT, dims=[4], raw_data=bytes(12)))
    stored.append(TensorProto(name="few", data_type=TensorProto.INT4, dims=[5], int32_data=[1, 2]))
    stored.append(TensorProto(name="odd", data_type=99, dims=[1], raw_data=b"1"))
    stored.append(TensorProto(name="less", data_type=TensorProto.FLOAT, dims=[-2]))
    stored.append(helper.make_tensor("told", TensorProto.FLOAT, [2], [1.0, 2.0]))
    model.graph.input.append(helper.make_tensor_value_info("told", TensorProto.FLOAT, [3]))
    model.graph.value_info.append(helper.make_tensor_value_info("short", TensorProto.DOUBLE, ["n"]))
    fails(
        model,
        "initialiser 'short' holds 12 bytes; FLOAT [4] needs 16",
        "initialiser 'few' holds 2 numbers in int32_data; INT4 [5] needs 3",
        "initialiser 'odd' has the unknown element type 99",
        "initialiser 'less' has the shape [-2]",
        "initialiser 'told' has shape [2], declared [3]",
        "initialiser 'short' has type FLOAT, declared DOUBLE",
    )


def external(folder: Path, **entries: str) -> Path:
    """A model whose weight of 16 bytes lies where `entries` say."""
    model = parsed("y = Add(x, w)")
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        weight.external_data.add(key=key, value=value)
    model.graph.initializer.append(weight)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


PLACES = [
    ({"location": "none.bin"}, "there is no such file"),
    ({"location": "data.bin", "offset": "40"}, "takes bytes 40 to 56 of 'data.bin', which has 48"),
    ({"location": "data.bin", "offset": "-4"}, "takes bytes -4 to 12"),
    ({"location": "data.bin", "length": "20"}, "has 20 bytes in 'data.bin'; its shape and type need 16"),
    ({"location": "data.bin", "offset": "many"}, "lies at a place that is no number"),
    ({"location": "../outside.bin"}, "which leaves the model's folder"),
    ({"location": "link.bin"}, "which leaves the model's folder"),
    ({"location": "/etc/passwd"}, "an absolute path"),
    ({"location": "C:\\\\data.bin"}, "an absolute path"),
    ({}, "which names no file"),
    ({"location": "."}, "there is no such file"),
]


@pytest.mark.parametrize(("entries", "message"), PLACES)
def test_external_data_must_lie_beside_the_model(
    tmp_path: Path, entries: dict[str, str], message: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (tmp_path / "outside.bin", folder / "data.bin"):
        path.write_bytes(bytes(48))
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    fails(external(folder, **entries), "initialiser 'w' ", message)


def test_in_memory_models_need_their_data(tmp_path: Path) -> None:
    path = external(tmp_path, location="data.bin")
    fails(onnx.load(path, load_external_data=False), "lies in 'data.bin', and the model came without")
    fails(ir.load(path), "initialiser 'w' lies in 'data.bin', and there is no such file")


def test_values_without_origin_in_models_in_memory() -> None:
    model = ir.from_onnx_text(f"{HEAD} test (float[n] x) => (y) {{ y = Add(x, x) }}")
    model.graph[0].replace_input_with(0, ir.Value(name="stray"))
    hollow = ir.Value(name="hollow", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    hollow.const_value = ir.tensor([1.0], name="hollow")
    model.graph.register_initializer(hollow)
    hollow.const_value = None
    fails(model, "'stray', which is not defined", "initialiser 'hollow' has no value")
    loop = ir.from_onnx_text(f"{HEAD} test (float[n] x) => (y) {{ a = Abs(x) y = Add(a, x) }}")
    loop.graph[0].replace_input_with(0, loop.graph.outputs[0])
    fails(loop, "uses 'y', which is not defined before it")


def test_files_that_are_no_models(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"")
    fails(path, "is empty")
    path.write_bytes(b"GIF89a, nothing else")
    fails(path)
    path.write_bytes(onnx.ModelProto(ir_version=8).SerializeToString())
    fails(path, "holds no graph")
    with pytest.raises(OptionError, match="no effect on ONNX models"):
        trace(path, TraceOptions(padding=True))


def test_no_bytes_crash_or_hang(tmp_path: Path) -> None:
    """Truncated files and flipped bits end in an error of ours, or in a graph."""
    body = """
        w = Constant<value = float[4] {1.0, 2.0, 3.0, 4.0}>() r = ReduceMean<axes=[1], keepdims=1>(x)
        c = Greater(r, r) s = Split<axis=1>(x) d = Softmax(s)
        y = If (k) < then_branch = t () => (p) { p = Add(x, w) }, else_branch = e () => (q) { q = Mul(x, m) }
        >
    """
    model = parsed(
        body + "z = MatMul(x, m)", '<ir_version: 8, opset_import: ["": 15]>', "float[n, 4] x, bool k"
    )
    model.graph.initializer.append(helper.make_tensor("m", TensorProto.FLOAT, [4, 4], np.eye(4).ravel()))
    sound = model.SerializeToString()
    random = np.random.default_rng(11)
    path = tmp_path / "fuzz.onnx"
    outcomes = set()
    for round_ in range(400):
        bytes_ = bytearray(sound[: random.integers(len(sound))] if round_ % 4 == 0 else sound)
        for _ in range(random.integers(1, 4) if round_ % 4 else 0):
            bytes_[random.integers(len(bytes_))] ^= 1 << random.integers(8)
        path.write_bytes(bytes_)
        try:
            trace(path)
            outcomes.add("graph")
        except IntaglioError as error:
            outcomes.add(type(error).__name__)
    assert outcomes == {"graph", "ModelFileError", "UnsupportedModelError"}
