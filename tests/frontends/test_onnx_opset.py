"""Models of every opset compute in opset 25 what they computed before, or keep their opset and say why."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import defs, parser

from intaglio.backends.onnxruntime.session import OnnxRuntimeSession
from intaglio.compiler.frontends.onnx.opset_rules import RULES
from intaglio.compiler.frontends.onnx.trace import trace_onnx
from intaglio.compiler.ir import OPSET_KEPT, check

X = "float[n, 4, 6] x"
IMAGE = "float[n, 4, 5, 7] x"
REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")


def model(inputs: str, body: str, opset: int, functions: str = "") -> onnx.ModelProto:
    text = f'<ir_version: 10, opset_import: ["": {opset}, "local": 1]> test ({inputs}) => (y) {{ {body} }}'
    return parser.parse_model(text + functions)


# name, inputs, body, first and last opset of that spelling
CASES = [
    *(
        (f"Reduce{one}", X, f"p = Abs(x) y = Reduce{one}<axes=[1], keepdims=0>(p)", 11, 17)
        for one in REDUCTIONS
    ),
    ("reduce_all", X, "y = ReduceMean(x)", 11, 25),
    ("reduce_by_input", X, "a = Constant<value = int64[1] {-1}>() y = ReduceMax(x, a)", 18, 28),
    ("ReduceSum_11", X, "y = ReduceSum<axes=[0, 2]>(x)", 11, 12),
    ("ReduceSum", X, "a = Constant<value = int64[1] {-1}>() y = ReduceSum(x, a)", 13, 28),
    ("Squeeze_11", "float[n, 1, 6] x", "y = Squeeze<axes=[1]>(x)", 11, 12),
    ("Unsqueeze_11", X, "y = Unsqueeze<axes=[0, 2]>(x)", 11, 12),
    ("Squeeze", "float[n, 1, 6] x", "a = Constant<value = int64[1] {1}>() y = Squeeze(x, a)", 13, 28),
    ("Split_11", X, "a, b = Split<axis=2, split=[2, 4]>(x) y = Concat<axis=2>(b, a)", 11, 12),
    ("Split_equal", X, "a, b = Split<axis=2>(x) y = Sub(a, b)", 11, 17),
    (
        "Split_sizes",
        X,
        "s = Constant<value = int64[2] {2, 4}>() a, b = Split<axis=2>(x, s) y = Concat<axis=2>(b, a)",
        13,
        28,
    ),
    ("Split_count", X, "a, b = Split<axis=1, num_outputs=2>(x) y = Sub(a, b)", 18, 28),
    *((f"{one}_default", X, f"y = {one}(x)", 11, 28) for one in ("Softmax", "LogSoftmax", "Hardmax")),
    *((f"{one}_middle", X, f"y = {one}<axis=1>(x)", 11, 28) for one in ("Softmax", "LogSoftmax", "Hardmax")),
    ("Softmax_first", X, "y = Softmax<axis=0>(x)", 11, 28),
    ("Softmax_last", X, "y = Softmax<axis=-1>(x)", 11, 28),
    ("Dropout_ratio", X, "y = Dropout<ratio=0.7>(x)", 11, 11),
    ("Dropout", X, "y = Dropout(x)", 11, 28),
    ("Clip", X, "l = Constant<value = float {-0.5}>() y = Clip(x, l)", 11, 28),
    (
        "BatchNormalization",
        IMAGE + ", float[4] s, float[4] b, float[4] m",
        "v = Exp(m) y = BatchNormalization<epsilon=0.01>(x, s, b, m, v)",
        11,
        28,
    ),
    (
        "Resize_linear",
        IMAGE,
        "r = Constant<value = float[1] {1.0}>() s = Constant<value = float[4] {1.0, 1.0, 2.0, 1.5}>()"
        'y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , s)',
        13,
        28,
    ),
    (
        "Resize_empty_scales",
        "float[1, 4, 5, 7] x",
        "r = Constant<value = float[0] {}>() z = Constant<value = int64[4] {1, 4, 10, 9}>()"
        'y = Resize<mode="cubic", coordinate_transformation_mode="half_pixel">(x, r, r, z)',
        11,
        12,
    ),
    (
        "Resize_nearest",
        IMAGE,
        "r = Constant<value = float[0] {}>() s = Constant<value = float[4] {1.0, 1.0, 1.7, 0.6}>()"
        'y = Resize<mode="nearest", nearest_mode="ceil", coordinate_transformation_mode="asymmetric">'
        "(x, r, s)",
        11,
        28,
    ),
    (
        "Pad",
        X,
        'p = Constant<value = int64[6] {0, 1, 2, 0, 1, 0}>() y = Pad<mode="reflect">(x, p)',
        11,
        28,
    ),
    (
        "Cast",
        X,
        "a = Cast<to=7>(x) b = Cast<to=10>(x) c = Cast<to=1>(a) d = Cast<to=1>(b) y = Add(c, d)",
        11,
        28,
    ),
    ("CastLike", X, "a = Constant<value = int64 {3}>() b = CastLike(x, a) y = CastLike(b, x)", 15, 28),
    (
        "Reshape",
        X,
        "s = Constant<value = int64[2] {0, -1}>() y = Reshape(x, s)",
        11,
        28,
    ),
    ("Shape", X, "s = Shape(x) f = Cast<to=1>(s) y = ReduceProd<keepdims=0>(f)", 11, 28),
    ("Shape_range", X, "s = Shape<start=1>(x) y = Cast<to=1>(s)", 15, 28),
    ("GridSample", IMAGE + ", float[n, 3, 3, 2] g", 'y = GridSample<mode="bicubic">(x, g)', 16, 19),
    ("GridSample_default", IMAGE + ", float[n, 3, 3, 2] g", "y = GridSample(x, g)", 16, 28),
    ("GridSample_linear", IMAGE + ", float[n, 3, 3, 2] g", 'y = GridSample<mode="linear">(x, g)', 20, 28),
    (
        "DFT",
        "float[n, 4, 6, 1] x",
        "y = DFT(x)",
        17,
        19,
    ),
    ("DFT_axis", "float[n, 4, 6, 1] x", "y = DFT<axis=2>(x)", 17, 19),
    ("DFT_default", "float[n, 4, 6, 1] x", "y = DFT(x)", 20, 28),
    (
        "GroupNormalization",
        IMAGE + ", float[4] s, float[4] b",
        "y = GroupNormalization<num_groups=2>(x, s, b)",
        21,
        28,
    ),
    ("AveragePool", IMAGE, "y = AveragePool<kernel_shape=[3, 2], pads=[1, 0, 1, 1]>(x)", 11, 28),
    (
        "AveragePool_ceil",
        IMAGE,
        "y = AveragePool<kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1,"
        " count_include_pad=1>(x)",
        11,
        28,
    ),
    (
        "MaxPool_ceil",
        IMAGE,
        "y = MaxPool<kernel_shape=[2, 2], strides=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1>(x)",
        11,
        28,
    ),
    ("LpPool", IMAGE, "y = LpPool<kernel_shape=[2, 2], p=2>(x)", 11, 28),
    (
        "LSTM",
        "float[s, n, 4] x, float[1, 12, 4] w, float[1, 12, 3] r",
        "a, h, c = LSTM<hidden_size=3>(x, w, r) y = Concat<axis=0>(h, c)",
        11,
        28,
    ),
    (
        "Conv",
        IMAGE + ", float[2, 4, 3, 3] w",
        "y = Conv<pads=[1, 1, 1, 1]>(x, w)",
        11,
        28,
    ),
    ("ScatterND", X, "i = Constant<value = int64[1, 1] {0}>() u = Gather(x, i) v = Squeeze<axes=[0]>(u)"
     " y = ScatterND(x, i, v)", 11, 12),
    ("TopK", X, "k = Constant<value = int64[1] {2}>() y, i = TopK(x, k)", 11, 28),
    ("Mod_integers", X, "i = Cast<to=7>(x) t = Constant<value = int64 {3}>() y = Mod(i, t)", 11, 25),
    ("OneHot", X, "i = Cast<to=7>(x) d = Constant<value = int64 {3}>()"
     " v = Constant<value = float[2] {0.0, 1.0}>() y = OneHot(i, d, v)", 11, 28),
    ("Einsum", X, 'y = Einsum<equation="nij,nkj->nik">(x, x)', 12, 28),
    (
        "Quantize",
        X,
        "s = Constant<value = float {0.05}>() z = Constant<value = uint8 {128}>()"
        "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)",
        11,
        26,
    ),
    ("LayerNormalization", X + ", float[6] s", "y = LayerNormalization(x, s)", 11, 28),
    ("Gelu", X, 'y = Gelu<approximate="tanh">(x)', 20, 28),
    ("Range_28", X, "a = Constant<value = float {0.0}>() b = Constant<value = float {5.5}>() "
     "c = Constant<value = float {1.0}>() y = Range(a, b, c)", 11, 28),
    ("SpaceToDepth_28", "float[n, 2, 4, 6] x", "y = SpaceToDepth<blocksize=2>(x)", 13, 28),
]  # fmt: skip
OPSETS = (11, 12, 13, 14, 15, 17, 18, 19, 21, 23, 25, 26, 28)
MATRIX = [
    pytest.param(inputs, body, opset, id=f"{name}-{opset}")
    for name, inputs, body, first, last in CASES
    for opset in OPSETS
    if first <= opset <= min(last, defs.onnx_opset_version())
]


def feeds(proto: onnx.ModelProto, n: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(n)
    sizes = {"n": n, "s": 5, "k": 2}
    made = {}
    for value in proto.graph.input:
        shape = [sizes.get(one.dim_param, one.dim_value) for one in value.type.tensor_type.shape.dim]
        made[value.name] = random.standard_normal(shape).astype(np.float32)
    return made


def original(proto: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (result,) = session.run(None, inputs)
    return result


def traced(proto: onnx.ModelProto) -> ir.Model:
    made = trace_onnx(proto)[0]
    check(made, decoder=False)
    return made


def agree(proto: onnx.ModelProto, converted: ir.Model) -> None:
    session = OnnxRuntimeSession(converted, threads=1)
    for n in (2, 3):
        inputs = feeds(proto, n)
        np.testing.assert_allclose(
            session.run(inputs)["y"], original(proto, inputs), rtol=1e-6, atol=1e-6, strict=True
        )


@pytest.mark.parametrize(("inputs", "body", "opset"), MATRIX)
def test_opset_25_computes_the_same(inputs: str, body: str, opset: int) -> None:
    proto = model(inputs, body, opset)
    converted = traced(proto)
    assert converted.opset_imports[""] == 25
    assert OPSET_KEPT not in converted.metadata_props
    agree(proto, converted)


STATISTICS = "a, m, v = BatchNormalization<training_mode=1>(x, s, b, m0, v0) y = Identity(m)"
KEPT_CASES = [
    (
        "RoiAlign 'y' of opset 17: onnxruntime has no kernel",
        IMAGE + ", float[k, 4] r",
        "c = Abs(r) i = Constant<value = int64[2] {0, 0}>()"
        "y = RoiAlign<output_height=3, output_width=2, sampling_ratio=2>(x, c, i)",
        17,
    ),
    (
        "of opset 12: its mode tf_half_pixel_for_nn",
        "float[1, 4, 5, 7] x",
        "r = Constant<value = float[0] {}>() z = Constant<value = int64[4] {1, 4, 10, 9}>()"
        'y = Resize<mode="linear", coordinate_transformation_mode="tf_half_pixel_for_nn">(x, r, r, z)',
        12,
    ),
    ("opset 28: the op came with opset 26", X, "a = Constant<value = int64 {1}>() y = CumProd(x, a)", 28),
    ("Mod 'y' of opset 28: its sign rules", X, "y = Mod(x, x)", 28),
    (
        "SpaceToDepth 'y' of opset 28: its attribute 'mode'",
        "float[n, 2, 4, 6] x",
        'y = SpaceToDepth<blocksize=2, mode="CRD">(x)',
        28,
    ),
]


@pytest.mark.parametrize(
    ("reason", "inputs", "body", "opset"),
    [case for case in KEPT_CASES if case[-1] <= defs.onnx_opset_version()],
)
def test_what_cannot_be_converted_stays_whole(reason: str, inputs: str, body: str, opset: int) -> None:
    proto = model(inputs, body + " unused = ReduceL1(x)", opset)
    converted = traced(proto)
    assert reason in converted.metadata_props[OPSET_KEPT]
    assert converted.opset_imports[""] == opset
    assert [node.op_type for node in converted.graph] == [node.op_type for node in proto.graph.node[:-1]]


def test_a_kept_model_still_runs() -> None:
    _, inputs, body, opset = KEPT_CASES[0]
    proto = model(inputs, body, opset)
    agree(proto, traced(proto))


def test_statistics_of_training_are_kept() -> None:
    inputs = IMAGE + ", float[4] s, float[4] b, float[4] m0, float[4] v0"
    proto = model(inputs, "a, y, v, p, q = BatchNormalization(x, s, b, m0, v0)", 13)
    assert "it returns statistics" in traced(proto).metadata_props[OPSET_KEPT]


def test_group_normalization_of_opset_18_scales_groups() -> None:
    # onnxruntime runs no such model, so onnx's function of opset 18 is the reference, written out.
    proto = model(IMAGE + ", float[2] s, float[2] b", "y = GroupNormalization<num_groups=2>(x, s, b)", 20)
    inputs = feeds(proto, 3)
    groups = inputs["x"].reshape(3, 2, -1)
    centred = groups - groups.mean(-1, keepdims=True)
    scaled = centred / np.sqrt(groups.var(-1, keepdims=True) + 1e-5)
    expected = (scaled * inputs["s"][:, None] + inputs["b"][:, None]).reshape(inputs["x"].shape)
    result = OnnxRuntimeSession(traced(proto), threads=1).run(inputs)["y"]
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_functions_and_their_attributes_are_converted() -> None:
    functions = """
        <domain: "local", opset_import: ["": 13, "local": 1]>
        centred <axes>(x) => (y) { m = ReduceMean<axes: ints = @axes>(x) y = Sub(x, m) }
        <domain: "local", opset_import: ["": 17, "local": 1]>
        halves (x) => (y) { a, b = Split<axis=2>(x) c = local.centred<axes=[2]>(a) y = Add(b, c) }
    """
    proto = model(X, "c = local.centred<axes=[0, 1]>(x) y = local.halves(c)", 15, functions)
    converted = traced(proto)
    assert {function.name for function in converted.functions.values()} == {"centred", "halves"}
    assert all(one.opset_imports[""] == 25 for one in converted.functions.values())
    agree(proto, converted)


SUBGRAPHS = """
    s = ReduceSum<keepdims=0>(x) zero = Constant<value = float {0.0}>() c = Greater(s, zero)
    y = If (c) <
        then_branch = then () => (p) { p = ReduceMean<axes=[1]>(x) },
        else_branch = other () => (q) { h, k = Split<axis=1>(x) d = Sub(h, k) q = ReduceMax<axes=[1]>(d) }
    >
"""


def test_subgraphs_are_converted() -> None:
    proto = model(X, SUBGRAPHS, 14)
    converted = traced(proto)
    assert [node.op_type for node in converted.graph][-1] == "If"
    agree(proto, converted)


LOOP = """
    most = Constant<value = int64 {3}>() go = Constant<value = bool {1}>()
    first = ReduceMean<axes=[1, 2], keepdims=1>(x)
    y, each = Loop (most, go, first) <body = step (int64 i, bool more, float[p, q, r] sum)
        => (bool next, float[p, q, r] added, float[p, s, r] row) {
            next = Identity(more) row = ReduceMax<axes=[2], keepdims=1>(x)
            mean = ReduceMean<axes=[1], keepdims=1>(row) added = Add(sum, mean)
        }>
"""
SCAN = """
    start = ReduceSum<keepdims=0>(x)
    end, y = Scan (start, x) <num_scan_inputs = 1, body = step (float sum, float[4, 6] slice)
        => (float total, float[4] out) {
            total = ReduceMean<keepdims=0>(slice) out = ReduceL2<axes=[1], keepdims=0>(slice)
        }>
"""


@pytest.mark.parametrize("body", [LOOP, SCAN], ids=["Loop", "Scan"])
@pytest.mark.parametrize("opset", [13, 17])
def test_loops_are_converted(body: str, opset: int) -> None:
    proto = model(X, body, opset)
    converted = traced(proto)
    assert converted.opset_imports[""] == 25
    agree(proto, converted)


def test_fused_files_of_onnxruntime_use_its_ops_in_the_standard_domain() -> None:
    body = """
        p = LayerNormalization<axis=-1>(x, s) q = SimplifiedLayerNormalization<axis=-1>(p, s)
        a = Add(q, x) g = com.microsoft.FusedMatMul<transB=1, alpha=0.5>(a, x) r = com.microsoft.QuickGelu(g)
        y = ReduceMean<axes=[1]>(r)
    """
    text = f"""<ir_version: 8, opset_import: ["": 14, "com.microsoft": 1]>
        test ({X}, float[6] s) => (y) {{ {body} }}"""
    proto = parser.parse_model(text)
    converted = traced(proto)
    assert converted.opset_imports[""] == 25
    kept = ["LayerNormalization", "SimplifiedLayerNormalization", "Add", "FusedMatMul", "QuickGelu"]
    assert [node.op_type for node in converted.graph][:5] == kept
    agree(proto, converted)


def test_models_in_memory_are_not_changed() -> None:
    proto = model(X, SUBGRAPHS, 14)
    before = proto.SerializeToString(deterministic=True)
    held = ir.serde.deserialize_model(proto)
    for given in (proto, held):
        converted = trace_onnx(given)[0]
        for value in list(converted.graph.initializers.values()):
            value.name = f"{value.name}.renamed"
        agree(proto, converted)
    assert proto.SerializeToString(deterministic=True) == before
    again = ir.serde.serialize_model(held).SerializeToString(deterministic=True)
    assert again == ir.serde.serialize_model(ir.serde.deserialize_model(proto)).SerializeToString(
        deterministic=True
    )


def test_every_op_that_changed_has_a_rule() -> None:
    """Reads onnx's own histories: inputs, attributes or defaults that went or changed need a rule."""
    histories: dict[str, list[defs.OpSchema]] = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version <= 25:
            histories.setdefault(schema.name, []).append(schema)
    changed = {name for name, history in histories.items() if list(_changes(history))}
    assert changed <= set(RULES)
    assert (
        set(RULES) - changed
        == {
            # Same spelling, other meaning: the histories do not show it.
            *("Softmax", "LogSoftmax", "Hardmax", "RoiAlign", "GroupNormalization", "Resize"),
            # An attribute without which the op cannot be read any more.
            "Split",
        }
        - changed
    )


def _changes(history: list[defs.OpSchema]) -> list[str]:
    ordered = sorted(history, key=lambda one: one.since_version)
    found = []
    for old, new in pairwise(ordered):
        if new.since_version <= 11:
            continue
        kept = set(old.attributes) & set(new.attributes)
        gone = set(old.attributes) - set(new.attributes)
        moved = [n for n in kept if old.attributes[n].default_value != new.attributes[n].default_value]
        fewer = len(new.outputs) < len(old.outputs) or len(new.inputs) < len(old.inputs)
        found += [*gone, *moved, *(["outputs"] if fewer else [])]
    return found
