"""Reading a fused decoder: calls of `intaglio` functions → regions."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from intaglio.backends.tvm.function_values import Body, Unreadable
from intaglio.backends.tvm.positions import Positions
from intaglio.backends.tvm.read_attention import read_attention
from intaglio.backends.tvm.read_rows import read_rows
from intaglio.backends.tvm.regions import (
    EmbeddingRegion,
    GatedRegion,
    LinearRegion,
    Norm,
    Region,
)
from intaglio.compiler.ir import DOMAIN, producer_of

GATES = ("SwiGLU", "GeGLU")


def read_region(call: ir.Node, function: ir.Function, positions: Positions) -> Region:
    """What the region `call` asks for; raises `Unreadable` with the reason."""
    body = Body.of(call, function)
    if call.op_type == "Embedding":
        return _embedding(body, positions)
    if call.op_type == "CachedAttention":
        return read_attention(body, positions)
    if call.op_type == "Rowwise":
        return read_rows(body)
    if call.op_type in ("NormGatedLinear", "GatedLinear"):
        return _gated(body)
    if call.op_type in ("NormLinear", "Linear"):
        return _linear(body, body.only("MatMul"), call.outputs[0])
    if call.op_type == "LinearAdd":
        product, add = body.only("MatMul"), body.only("Add")
        residual = body.fed(next(one for one in add.inputs if one is not product.outputs[0]))
        return replace(_linear(body, product, call.outputs[0]), residual=residual)
    raise Unreadable(f"{call.op_type} is no region that the CPU kernels know")


def gate_kind(node: ir.Node) -> str:
    """The name of a gate among the kernels' epilogues."""
    if node.op_type == "SwiGLU":
        return "swiglu"
    approximate = node.attributes.get_string("approximate", "none")
    return "geglu_tanh" if approximate == "tanh" else "geglu_erf"


def _embedding(body: Body, positions: Positions) -> Region:
    gather = body.only("Gather")
    index, output = body.fed(gather.inputs[1]), body.call.outputs[0]
    weight = body.weight(gather.inputs[0])
    if positions.are_tokens(index):
        return EmbeddingRegion(body.site, weight, output)
    offset = positions.offset_of(index)
    if offset is None:
        raise Unreadable(f"its rows are picked by {index.name}, neither the tokens nor their positions")
    return EmbeddingRegion(body.site, weight, output, "positions", offset)


def _gated(body: Body) -> Region:
    (gate,) = [node for node in body.function if node.domain == DOMAIN and node.op_type in GATES]
    products = [node for node in body.function if node.op_type == "MatMul"]
    kind, output = gate_kind(gate), body.call.outputs[0]
    if len(products) == 1:
        split = producer_of(gate.inputs[0], "Split")
        if split is None or list(split.outputs[:2]) != list(gate.inputs):
            raise Unreadable("gate and up are not the first and second half of their projection")
        return replace(_linear(body, products[0], output), gate=kind)
    ordered = sorted(products, key=lambda product: product.outputs[0] is not gate.inputs[0])
    first, second = (_by_weight(_linear(body, one, one.outputs[0])) for one in ordered)
    return GatedRegion(body.site, first, second, kind, output)


def _by_weight(linear: LinearRegion) -> LinearRegion:
    """The two layers of a region are told apart by their weights' names: layers.3.mlp.up_proj.weight…"""
    site, found, _ = (linear.weight.codes.name or "").partition(".weight")
    return replace(linear, site=site) if found else linear


def _linear(body: Body, matmul: ir.Node, output: ir.Value) -> LinearRegion:
    weight = body.weight(matmul.inputs[1])
    if not weight.transposed:
        raise Unreadable("its weight is stored [in, out]; the kernels want [out, in]")
    source, group, norm = matmul.inputs[0], None, None
    if (quantize := producer_of(source, "QuantizeActivation", DOMAIN)) is not None:
        source, group = quantize.inputs[0], quantize.attributes["group"].as_int()
    if (node := producer_of(source, "RMSNormalization")) is not None:
        norm = Norm(body.stored(node.inputs[1]), node.attributes.get_float("epsilon", 1e-5))
        source = node.inputs[0]
    if (cut := producer_of(source, "Slice")) is not None:
        source = cut.inputs[0]
    return LinearRegion(body.site, body.fed(source), norm, group, weight, None, "", output)
