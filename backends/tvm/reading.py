"""Reading a fused decoder: calls of `intaglio` functions → regions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir

from intaglio.backends.tvm.regions import (
    AttentionRegion,
    EmbeddingRegion,
    GatedRegion,
    LinearRegion,
    Norm,
    Region,
)
from intaglio.compiler.ir import DOMAIN, DequantizedWeight, constant_of, is_dequantized_weight, producer_of

Outer = Mapping[ir.Value, ir.Value | None]  # a function's inputs → what the call gives it


class Unreadable(Exception):
    """Why a call cannot be lowered."""


def read_regions(model: ir.Model) -> tuple[list[Region], list[str]]:
    """All regions of the main graph in order, and `node: reason` for every node that is none."""
    regions: list[Region] = []
    problems: list[str] = []
    for node in model.graph:
        function = model.functions.get(node.op_identifier())
        if node.domain != DOMAIN:
            problems += _stray(node)
        elif function is None:
            problems.append(f"{node.name}: {node.op_type} is not defined in the model")
        else:
            try:
                regions.append(read_region(node, function))
            except Unreadable as reason:
                problems.append(f"{node.name}: {reason}")
    return regions, problems


def _stray(node: ir.Node) -> list[str]:
    """Index arithmetic is the runtime's business; anything else outside a region has no kernel."""
    if all(one is None or one.dtype in (ir.DataType.INT64, None) for one in (*node.inputs, *node.outputs)):
        return []
    return [] if node.op_type == "Shape" else [f"{node.name}: {node.op_type} fits no region"]


def read_region(call: ir.Node, function: ir.Function) -> Region:
    """What the region `call` asks for; raises `Unreadable` with the reason."""
    outer = dict(zip(function.inputs, call.inputs, strict=True))
    site = call.metadata_props.get("intaglio.site", call.name or call.op_type)
    if call.op_type == "Embedding":
        gather = _only(function, "Gather")
        return EmbeddingRegion(site, _weight(gather.inputs[0], outer), call.outputs[0])
    if call.op_type == "CachedAttention":
        return _attention(site, call, function, outer)
    products = [node for node in function if node.op_type == "MatMul"]
    if call.op_type == "NormGatedLinear" and len(products) == 2:
        gate, up = (_linear(site, one, one.outputs[0], outer) for one in _gate_first(function, products))
        return GatedRegion(site, _by_weight(gate), _by_weight(up), call.outputs[0])
    if call.op_type in ("NormLinear", "NormGatedLinear"):
        linear = _linear(site, _only(function, "MatMul"), call.outputs[0], outer)
        return replace(linear, gated=call.op_type == "NormGatedLinear")
    if call.op_type == "LinearAdd":
        product, add = _only(function, "MatMul"), _only(function, "Add")
        residual = _fed(next(one for one in add.inputs if one is not product.outputs[0]), outer)
        return replace(_linear(site, product, call.outputs[0], outer), residual=residual)
    raise Unreadable(f"{call.op_type} is no region that the CPU kernels know")


def _gate_first(function: ir.Function, products: list[ir.Node]) -> list[ir.Node]:
    swiglu = next(node for node in function if node.op_type == "SwiGLU")
    return sorted(products, key=lambda product: product.outputs[0] is not swiglu.inputs[0])


def _by_weight(linear: LinearRegion) -> LinearRegion:
    """The two layers of a region are told apart by their weights' names: layers.3.mlp.up_proj.weight…"""
    site, found, _ = (linear.weight.codes.name or "").partition(".weight")
    return replace(linear, site=site) if found else linear


def _linear(site: str, matmul: ir.Node, output: ir.Value, outer: Outer) -> LinearRegion:
    weight = _weight(matmul.inputs[1], outer)
    if not weight.transposed:
        raise Unreadable("its weight is stored [in, out]; the kernels want [out, in]")
    source, group, norm = matmul.inputs[0], None, None
    if (quantize := producer_of(source, "QuantizeActivation", DOMAIN)) is not None:
        source, group = quantize.inputs[0], quantize.attributes["group"].as_int()
    if (node := producer_of(source, "RMSNormalization")) is not None:
        norm = Norm(_stored(node.inputs[1], outer), node.attributes["epsilon"].as_float())
        source = node.inputs[0]
    if (cut := producer_of(source, "Slice")) is not None:
        source = cut.inputs[0]
    return LinearRegion(site, _fed(source, outer), norm, group, weight, None, False, output)


def _attention(site: str, call: ir.Node, function: ir.Function, outer: Outer) -> Region:
    attention = _only(function, "Attention")
    rotary = next((node for node in function if node.op_type == "RotaryEmbedding"), None)
    if rotary is None:
        raise Unreadable("attention without rotary embedding has no kernel yet")
    scatters = [_made_by(value, "TensorScatter") for value in attention.inputs[1:3]]
    key_cache, value_cache = (_fed(one.inputs[0], outer) for one in scatters)
    shape = [int(one) if isinstance(one, int) else 0 for one in key_cache.shape or ()]
    kv_heads, head_dim = shape[1], shape[3]
    projections = tuple(
        one
        for inner, one in outer.items()
        if one is not None
        and inner.dtype == ir.DataType.FLOAT
        and inner.shape is not None
        and len(inner.shape) == 3
    )
    columns = sum(_columns(one) for one in projections)
    heads = columns // head_dim - 2 * kv_heads
    _check_attention(attention, rotary, head_dim)
    tables = (_fed(rotary.inputs[1], outer), _fed(rotary.inputs[2], outer))
    caches = (key_cache, value_cache)
    return AttentionRegion(site, projections, heads, kv_heads, head_dim, *tables, *caches, call.outputs[0])


def _columns(value: ir.Value) -> int:
    last = None if value.shape is None else value.shape[-1]
    if not isinstance(last, int):
        raise Unreadable(f"{value.name} has no fixed number of columns")
    return last


def _check_attention(attention: ir.Node, rotary: ir.Node, head_dim: int) -> None:
    problems = []
    scale = attention.attributes.get("scale")
    if scale is not None and not math.isclose(scale.as_float(), head_dim**-0.5, rel_tol=1e-6):
        problems.append(f"scale {scale.as_float()} instead of 1/√head_dim")
    if attention.attributes["is_causal"].as_int() != 1:
        problems.append("not causal")
    problems += [
        f"{name} {attention.attributes[name].value}"
        for name in ("softcap", "left_window_size", "qk_matmul_output_mode")
        if name in attention.attributes and attention.attributes[name].value not in (0, 0.0, -1)
    ]
    for name in ("interleaved", "rotary_embedding_dim"):
        value = rotary.attributes.get(name)
        if value is not None and value.as_int() not in (0, head_dim if name == "rotary_embedding_dim" else 0):
            problems.append(f"rotary {name} {value.as_int()}")
    if problems:
        raise Unreadable(f"attention has no kernel with {', '.join(problems)}")


def _only(function: ir.Function, op_type: str) -> ir.Node:
    found = [node for node in function if node.op_type == op_type and not node.domain]
    if len(found) != 1:
        raise Unreadable(f"it has {len(found)} {op_type} nodes where the kernels know one")
    return found[0]


def _made_by(value: ir.Value | None, op_type: str) -> ir.Node:
    node = producer_of(value, op_type)
    if node is None:
        raise Unreadable(f"its keys or values do not come from {op_type}")
    return node


def _fed(value: ir.Value | None, outer: Outer) -> ir.Value:
    found = None if value is None else outer.get(value)
    if found is None:
        raise Unreadable(
            f"{value.name if value else 'an input'} is computed in a way that the kernels do not know"
        )
    return found


def _stored(value: ir.Value | None, outer: Outer) -> ir.Value:
    found = _fed(value, outer)
    if constant_of(found) is None:
        raise Unreadable(f"{found.name} is not a stored weight")
    return found


def _weight(value: ir.Value | None, outer: Outer) -> DequantizedWeight:
    inner = is_dequantized_weight(value, inputs=True)
    if inner is None:
        raise Unreadable("its weight is stored in a way that the kernels do not know")

    def part(value: ir.Value | None) -> ir.Value | None:
        return None if value is None else _stored(value, outer)

    return replace(
        inner,
        codes=_stored(inner.codes, outer),
        scale=part(inner.scale),
        zero_point=part(inner.zero_point),
        minimum=part(inner.minimum),
    )
