"""Quantised graphs: dequantised values stay bit for bit, and what has no form in our IR stays a node."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from intaglio.backends.onnxruntime.session import OnnxRuntimeSession
from intaglio.compiler.frontends.onnx.trace import QUANTIZATION_KEPT, trace_onnx
from intaglio.compiler.ir.invariants import check
from intaglio.compiler.ir.match import DequantizedWeight, dequantize, is_dequantized_weight
from intaglio.passes.linears import find_linears
from intaglio.passes.normalize import normalize_graph
from intaglio.passes.normalize.fold_constants import FoldConstants

MICROSOFT = "com.microsoft"
RANDOM = np.random.default_rng(3)
N, K = 7, 96  # an odd number of rows, and 3 blocks of 32 in each


def tensor(name: str, array: np.ndarray, kind: int | None = None) -> onnx.TensorProto:
    if kind in (TensorProto.INT4, TensorProto.UINT4):
        stored = packed(array.reshape(-1).astype(np.uint8) & 0xF).tobytes()
        return helper.make_tensor(name, kind, array.shape, stored, raw=True)
    kind = kind or helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor(name, kind, array.shape, array.tobytes(), raw=True)


def make(
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto],
    x: list[Any] | None = None,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("x", kind, x or ["batch", K])]
    outputs = [onnx.ValueInfoProto(name="y")]
    graph = helper.make_graph(nodes, "quantised", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def traced(proto: onnx.ModelProto) -> ir.Model:
    made = trace_onnx(proto)[0]
    check(made, decoder=False)
    return made


def run_original(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # Otherwise onnxruntime rounds activations where it fuses a graph's own dequantisation into a product.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


def agree(proto: onnx.ModelProto, model: ir.Model, *, exactly: bool = False, dtype: Any = np.float32) -> None:
    session = OnnxRuntimeSession(model, threads=1)
    for rows in (1, 5):
        shape = [one.dim_value or rows for one in proto.graph.input[0].type.tensor_type.shape.dim]
        x = (RANDOM.standard_normal(shape) * 3).astype(dtype)
        result, expected = session.run({"x": x})["y"], run_original(proto, x)
        tolerance = 0.0 if exactly else 1e-5
        np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance * 30, strict=True)


def op_types(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def the_weight(model: ir.Model) -> DequantizedWeight:
    (product,) = [node for node in model.graph if node.op_type in ("MatMul", "Gemm")]
    weight = is_dequantized_weight(product.inputs[1])
    assert weight is not None
    return weight


def packed(codes: np.ndarray) -> np.ndarray:
    """Two 4-bit codes a byte along the last axis, the first in the lower half; a last odd one alone."""
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], 1), codes.dtype)], -1)
    return (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8)


def n_bits(
    bits: int = 4,
    *,
    block: int = 32,
    zero: bool = False,
    bias: bool = False,
    columns: int = K,
    **attributes: int,
) -> tuple[onnx.ModelProto, np.ndarray]:
    """A `MatMulNBits`, and the values of its weight."""
    blocks = -(-columns // block)
    codes = RANDOM.integers(0, 2**bits, (N, blocks, block)).astype(np.uint8)
    scales = RANDOM.uniform(0.01, 0.1, (N, blocks)).astype(np.float32)
    zeros = RANDOM.integers(0, 2**bits, (N, blocks)).astype(np.uint8)
    inputs = ["x", "B", "scales", "zeros" if zero else "", "", "bias" if bias else ""]
    while not inputs[-1]:
        inputs.pop()
    node = helper.make_node(
        *("MatMulNBits", inputs, ["y"], "product"),
        domain=MICROSOFT,
        N=N,
        K=columns,
        bits=bits,
        block_size=block,
        **attributes,
    )
    weights = [
        tensor("B", packed(codes) if bits == 4 else codes),
        tensor("scales", scales.reshape(-1)),
        tensor("zeros", (packed(zeros) if bits == 4 else zeros).reshape(-1)),
        tensor("bias", RANDOM.standard_normal(N).astype(np.float32)),
    ]
    implied = np.full_like(zeros, 2 ** (bits - 1))
    centred = codes.astype(np.float32) - (zeros if zero else implied)[..., None].astype(np.float32)
    values = (centred * scales[..., None]).reshape(N, -1)[:, :columns]
    return make([node], [one for one in weights if one.name in inputs], ["batch", columns]), values


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("block", [16, 32])
def test_matmul_n_bits_becomes_a_quantised_linear_layer(
    bits: int, zero: bool, bias: bool, block: int
) -> None:
    proto, values = n_bits(bits, zero=zero, bias=bias, block=block)
    model = traced(proto)
    assert op_types(model) == ["DequantizeLinear", "Transpose", "MatMul"] + ["Add"] * bias
    weight = the_weight(model)
    assert (weight.shape, weight.block_size) == ((N, K), block)
    assert (weight.zero_point is not None) == zero
    np.testing.assert_array_equal(dequantize(weight), values)
    assert model.graph[-1].name == "product"
    assert QUANTIZATION_KEPT not in model.metadata_props
    agree(proto, model)


def test_two_products_share_one_stored_weight() -> None:
    proto, _ = n_bits(bits=4)
    second = onnx.NodeProto()
    second.CopyFrom(proto.graph.node[0])
    second.name, second.output[0] = "second", "z"
    proto.graph.node.append(second)
    proto.graph.output.append(onnx.ValueInfoProto(name="z"))
    assert len(traced(proto).graph.initializers) == 2


KEPT = [
    ({"accuracy_level": 4}, "accuracy_level 4 rounds activations"),
    ({"columns": 80}, "K = 80 is no multiple of block_size 32"),
    ({"bits": 2}, "codes have 2 bits"),
    ({"weight_prepacked": 1}, "weights are prepacked"),
]


@pytest.mark.parametrize(("options", "reason"), KEPT, ids=[reason for _, reason in KEPT])
def test_other_matmul_n_bits_stay(options: dict[str, int], reason: str) -> None:
    bits = options.get("bits", 4)
    proto, _ = n_bits(**options)
    if bits == 2:
        proto.graph.initializer[0].CopyFrom(tensor("B", RANDOM.integers(0, 256, (N, 3, 8)).astype(np.uint8)))
    model = traced(proto)
    assert op_types(model) == ["MatMulNBits"]
    assert f"product: {reason}" in model.metadata_props[QUANTIZATION_KEPT]
    if "weight_prepacked" not in options:
        agree(proto, model, exactly=True)


def test_float_zero_points_and_reordered_rows_stay() -> None:
    proto, _ = n_bits(zero=True)
    proto.graph.initializer[2].CopyFrom(tensor("zeros", np.full((N, 3), 7.5, np.float32)))
    assert "zero points are FLOAT" in traced(proto).metadata_props[QUANTIZATION_KEPT]
    proto, _ = n_bits(bias=True)
    proto.graph.node[0].input[4] = "order"
    proto.graph.initializer.append(tensor("order", (np.arange(K) // 32).astype(np.int32)))
    assert "reordered by g_idx" in traced(proto).metadata_props[QUANTIZATION_KEPT]


def test_weights_of_the_wrong_size_stay_for_onnxruntime_to_refuse() -> None:
    proto, _ = n_bits()
    proto.graph.initializer[1].CopyFrom(tensor("scales", np.ones(5, np.float32)))
    assert "need 21 elements" in traced(proto).metadata_props[QUANTIZATION_KEPT]


TYPES = {
    "int8": (TensorProto.INT8, np.int8, -128, 128),
    "uint8": (TensorProto.UINT8, np.uint8, 0, 256),
    "int4": (TensorProto.INT4, np.int8, -8, 8),
    "uint4": (TensorProto.UINT4, np.uint8, 0, 16),
}
# name, shape of the scale of a weight [K, N], attributes, block size in our IR
LAYOUTS = {
    "per tensor": ((), {}, K),
    "per column": ((N + 1,), {"axis": -1}, K),
    "blocks": ((3, N + 1), {"axis": 0, "block_size": 32}, 32),
}
USES = ("MatMul", "Gemm", "Gemm turned", "Transpose")


def dequantizing(
    kind: str, layout: str, use: str, *, zero: bool = True, activations: bool = False
) -> tuple[onnx.ModelProto, np.ndarray]:
    """A linear layer over a weight that the graph dequantises, and the weight's values `[N, K]`."""
    number, dtype, low, high = TYPES[kind]
    shape, attributes, _ = LAYOUTS[layout]
    columns = N + 1
    codes = RANDOM.integers(low, high, (K, columns)).astype(np.int16)
    scale = RANDOM.uniform(0.01, 0.1, shape).astype(np.float32)
    zeros = RANDOM.integers(low, high, shape).astype(np.int16)
    spread = {(): 1, (columns,): 1, (3, columns): 32}[shape]
    wide_scale, wide_zeros = (np.repeat(one, spread, 0) if one.ndim == 2 else one for one in (scale, zeros))
    values = (codes - (wide_zeros if zero else 0)).astype(np.float32) * wide_scale
    turned = use in ("Gemm turned", "Transpose")
    if turned:
        codes = codes.T
        scale, zeros = (one.T if one.ndim == 2 else one for one in (scale, zeros))
        attributes = {**attributes, "axis": 1 - attributes["axis"] % 2} if attributes else {}
    weights = [
        tensor("w", codes.astype(dtype), number),
        tensor("s", scale),
    ]
    if zero:
        weights.append(tensor("z", zeros.astype(dtype), number))
    inputs = ["w", "s", "z"][: 2 + zero]
    nodes = [helper.make_node("DequantizeLinear", inputs, ["d"], name="dq", **attributes)]
    x = "x"
    if activations:
        weights += [tensor("xs", np.float32(0.05)), tensor("xz", np.uint8(128))]
        nodes += [helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"])]
        nodes += [helper.make_node("DequantizeLinear", ["q", "xs", "xz"], ["r"])]
        x = "r"
    if use == "Transpose":
        nodes.append(helper.make_node("Transpose", ["d"], ["t"]))
    op = {"Gemm turned": "Gemm", "Transpose": "MatMul"}.get(use, use)
    given = {"transB": 1} if use == "Gemm turned" else {}
    nodes.append(helper.make_node(op, [x, "t" if use == "Transpose" else "d"], ["y"], name="layer", **given))
    return make(nodes, weights), values.T


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("use", USES)
def test_dequantised_weights_become_blocks(kind: str, layout: str, use: str) -> None:
    proto, values = dequantizing(kind, layout, use)
    model = traced(proto)
    weight = the_weight(model)
    assert weight.kind == "symmetric"
    assert (weight.shape, weight.block_size) == ((N + 1, K), LAYOUTS[layout][2])
    assert weight.transposed
    assert "Gemm" not in op_types(model)
    np.testing.assert_array_equal(dequantize(weight), values)
    assert QUANTIZATION_KEPT not in model.metadata_props
    agree(proto, model)


def test_gemm_keeps_its_bias_and_stays_where_it_scales() -> None:
    for attributes, ops in (({}, ["MatMul", "Add"]), ({"alpha": 0.5}, ["Gemm"]), ({"beta": 2.0}, ["Gemm"])):
        proto, values = dequantizing("int8", "per column", "Gemm turned")
        proto.graph.initializer.append(tensor("b", RANDOM.standard_normal(N + 1).astype(np.float32)))
        layer = proto.graph.node[-1]
        layer.input.append("b")
        layer.attribute.extend(helper.make_attribute(*one) for one in attributes.items())
        model = traced(proto)
        assert op_types(model)[-len(ops) :] == ops
        assert ("layer: Gemm scales" in model.metadata_props.get(QUANTIZATION_KEPT, "")) == bool(attributes)
        np.testing.assert_array_equal(dequantize(the_weight(model)), values)
        agree(proto, model)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_zero_points_of_zero_are_left_out(kind: str) -> None:
    proto, values = dequantizing(kind, "per column", "MatMul")
    zeros = proto.graph.initializer[2]
    zeros.raw_data = bytes(len(zeros.raw_data))
    weight = the_weight(traced(proto))
    assert weight.zero_point is None
    assert weight.codes.dtype == ir.DataType[kind.upper()]
    assert values.shape == weight.shape


def test_pairs_that_onnxruntime_multiplies_as_integers_stay() -> None:
    proto, _ = dequantizing("int8", "per column", "MatMul", activations=True)
    model = traced(proto)
    assert op_types(model) == ["DequantizeLinear", "QuantizeLinear", "DequantizeLinear", "MatMul"]
    assert "dq: activations are dequantised too" in model.metadata_props[QUANTIZATION_KEPT]
    agree(proto, model, exactly=True)


def test_weights_with_other_uses_and_scales_along_k_stay() -> None:
    proto, _ = dequantizing("int8", "per column", "MatMul")
    proto.graph.output.append(onnx.ValueInfoProto(name="d"))
    assert "not only linear layers use it" in traced(proto).metadata_props[QUANTIZATION_KEPT]
    proto, _ = dequantizing("int8", "per tensor", "MatMul")
    proto.graph.initializer[1].CopyFrom(tensor("s", np.ones(K, np.float32)))
    proto.graph.initializer[2].CopyFrom(tensor("z", np.ones(K, np.int8)))
    proto.graph.node[0].attribute.append(helper.make_attribute("axis", 0))
    model = traced(proto)
    assert f"scales [{K}] run along K" in model.metadata_props[QUANTIZATION_KEPT]
    agree(proto, model, exactly=True)


def float8() -> onnx.ModelProto:
    codes = RANDOM.standard_normal((K, N)).astype(ml_dtypes.float8_e4m3fn)
    weights = [tensor("w", codes, TensorProto.FLOAT8E4M3FN), tensor("s", np.float32(0.5))]
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"]),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    return make(nodes, weights)


def integer_product() -> onnx.ModelProto:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "xs", "xz"]),
        helper.make_node("MatMulInteger", ["q", "w", "xz", "z"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["xs", "s"], ["both"]),
        helper.make_node("Mul", ["f", "both"], ["y"]),
    ]
    codes = RANDOM.integers(-128, 128, (K, N)).astype(np.int8)
    return make(nodes, [tensor("w", codes), tensor("z", np.int8(0)), tensor("s", np.float32(0.02))])


def operator_product() -> onnx.ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        helper.make_node("QLinearMatMul", ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["p"]),
        helper.make_node("DequantizeLinear", ["p", "ys", "yz"], ["y"]),
    ]
    weights = [
        *(tensor(name, np.float32(size)) for name, size in (("xs", 0.05), ("ws", 0.01), ("ys", 0.4))),
        *(tensor(name, np.uint8(120)) for name in ("xz", "wz", "yz")),
        tensor("w", RANDOM.integers(0, 256, (K, N)).astype(np.uint8)),
    ]
    return make(nodes, weights)


def operator_convolution() -> onnx.ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        helper.make_node("QLinearConv", ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["p"], pads=[1] * 4),
        helper.make_node("ConvInteger", ["p", "v", "yz"], ["i"]),
        helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
    ]
    weights = [
        *(tensor(name, np.float32(size)) for name, size in (("xs", 0.05), ("ys", 0.4))),
        tensor("ws", RANDOM.uniform(0.01, 0.02, 4).astype(np.float32)),
        tensor("wz", np.zeros(4, np.int8)),
        *(tensor(name, np.uint8(120)) for name in ("xz", "yz")),
        tensor("w", RANDOM.integers(-128, 128, (4, 3, 3, 3)).astype(np.int8)),
        tensor("v", RANDOM.integers(0, 256, (2, 4, 1, 1)).astype(np.uint8)),
    ]
    return make(nodes, weights, ["batch", 3, 5, 6])


def runtime_products() -> onnx.ModelProto:
    nodes = [
        helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s", "z", "b"], ["p"], domain=MICROSOFT),
        helper.make_node("QuantizeLinear", ["p", "ps", "pz"], ["q"], domain=MICROSOFT),
        helper.make_node("DequantizeLinear", ["q", "ps", "pz"], ["y"], domain=MICROSOFT),
    ]
    weights = [
        tensor("w", RANDOM.integers(0, 256, (K, N)).astype(np.uint8)),
        tensor("s", np.float32(0.01)),
        tensor("z", np.uint8(128)),
        tensor("b", np.ones(N, np.float32)),
        tensor("ps", np.float32(0.3)),
        tensor("pz", np.uint8(128)),
    ]
    return make(nodes, weights)


def quantised_attention() -> onnx.ModelProto:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "xs", "xz"]),
        helper.make_node(
            *("QAttention", ["q", "w", "b", "xs", "s", "", "xz", "z"], ["y"]), domain=MICROSOFT, num_heads=2
        ),
    ]
    weights = [
        tensor("w", RANDOM.integers(0, 256, (8, 24)).astype(np.uint8)),
        tensor("b", np.zeros(24, np.float32)),
        tensor("s", np.float32(0.01)),
        tensor("z", np.uint8(128)),
    ]
    return make(nodes, weights, ["batch", 5, 8])


def quantised_lookup() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("Abs", ["i"], ["a"]),
        helper.make_node("GatherBlockQuantized", ["w", "a", "s"], ["y"], domain=MICROSOFT, block_size=16),
    ]
    weights = [
        tensor("w", RANDOM.integers(-8, 8, (64, 32)).astype(np.int8), TensorProto.INT4),
        tensor("s", RANDOM.uniform(0.01, 0.1, (64, 2)).astype(np.float32)),
    ]
    return make(nodes, weights, ["batch", 4])


@pytest.mark.parametrize(
    "build",
    [
        *(float8, integer_product, operator_product, operator_convolution),
        *(runtime_products, quantised_attention, quantised_lookup),
    ],
)
def test_other_quantised_ops_stay_as_they_are(build: Any) -> None:
    proto = build()
    model = traced(proto)
    assert op_types(model) == [node.op_type for node in proto.graph.node]
    agree(proto, model, exactly=True)


@pytest.mark.parametrize("build", [integer_product, operator_product, operator_convolution, runtime_products])
def test_folding_constants_leaves_quantised_ops_alone(build: Any) -> None:
    model = traced(build())
    before = [(node.op_type, [value.name for value in node.inputs if value]) for node in model.graph]
    FoldConstants()(model)
    assert [(node.op_type, [value.name for value in node.inputs if value]) for node in model.graph] == before


def test_folding_constants_leaves_pairs_over_constants_alone() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Add", ["x", "d"], ["y"]),
    ]
    weights = [tensor("c", np.float32(0.3)), tensor("s", np.float32(0.25)), tensor("z", np.int8(0))]
    model = traced(make(nodes, weights))
    FoldConstants()(model)
    assert op_types(model) == ["QuantizeLinear", "DequantizeLinear", "Add"]


QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QLinear", "Integer", "DynamicQuantize", "QAttention")


@pytest.mark.parametrize(
    "build",
    [
        *(integer_product, operator_product, operator_convolution, runtime_products, quantised_attention),
        lambda: dequantizing("int8", "per column", "MatMul", activations=True)[0],
        lambda: dequantizing("int8", "per column", "Gemm turned", activations=True)[0],
    ],
)
def test_normalising_leaves_quantised_ops_alone(build: Any) -> None:
    proto = build()
    model = traced(proto)
    before = [op for op in op_types(model) if any(part in op for part in QUANTISED)]
    assert before
    normalize_graph(model)
    assert [op for op in op_types(model) if any(part in op for part in QUANTISED)] == before
    agree(proto, model, exactly=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("use", USES)
def test_normalised_weights_stay_quantised(layout: str, use: str) -> None:
    proto, values = dequantizing("int4", layout, use)
    model = traced(proto)
    normalize_graph(model)
    np.testing.assert_array_equal(dequantize(the_weight(model)), values)
    (site,) = find_linears(model)
    assert site.weight.quantized
    agree(proto, model)
