"""Where the regions of a canonical decoder are: the parts that one kernel each computes."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from intaglio.compiler.ir.functions import DOMAIN
from intaglio.compiler.ir.match import sole_consumer
from intaglio.passes.fuse.outline import STRUCTURE, Region
from intaglio.passes.linears import Linear, find_linears
from intaglio.passes.result import Declined
from intaglio.passes.rewriting import is_op, made_by, site_of
from intaglio.passes.weights import read_weight

PASS = "fuse_regions"


def find_regions(model: ir.Model) -> Iterator[Region | Declined]:
    """Every region, in the order of the graph's kinds; what should be in one and is not, with the reason."""
    linears = find_linears(model)
    gates = {node: _gated(node, linears) for node in model.graph if is_op(node, "SwiGLU", DOMAIN)}
    gated = {one.matmul for found in gates.values() for one in found}
    index = index_nodes(model.graph)
    yield from _embeddings(model.graph)
    for linear in linears:
        if linear.matmul not in gated:
            yield _linear(linear)
    for node, found in gates.items():
        yield _norm_gated_linear(node, found)
    products = {one.matmul for one in linears}
    for node in model.graph:
        if is_op(node, "Attention"):
            yield _cached_attention(node, products | index)


def index_nodes(graph: ir.Graph) -> frozenset[ir.Node]:
    """Nodes that compute with nothing but `position`, `input_ids` and small int64 constants."""
    known = {one for one in graph.inputs if one.name in ("position", "input_ids")}
    known |= {one for one in graph.initializers.values() if _is_index(one)}
    found = set()
    for node in graph:
        if not node.domain and all(one is None or one in known for one in node.inputs):
            found.add(node)
            known.update(node.outputs)
    return frozenset(found)


def _is_index(value: ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and tensor.dtype == ir.DataType.INT64 and tensor.size <= STRUCTURE


def _embeddings(graph: ir.Graph) -> Iterator[Region]:
    for node in graph:
        weight = read_weight(node.inputs[0]) if is_op(node, "Gather") else None
        if weight is not None:
            yield Region("Embedding", site_of(node), frozenset([node, *weight.nodes]), tuple(node.outputs))


def _core(linear: Linear) -> set[ir.Node]:
    """A linear layer with what dequantises its weight and rounds its activations."""
    quantize = [linear.quantize] if linear.quantize is not None else []
    return {linear.matmul, linear.transpose, *linear.weight.nodes, *quantize}


def _linear(linear: Linear) -> Region | Declined:
    norm = made_by(linear.input, "RMSNormalization")
    if norm is not None:
        nodes = frozenset([*_core(linear), norm, *_slice_before(norm)])
        return Region("NormLinear", linear.site, nodes, (linear.output,))
    add = sole_consumer(linear.output)
    if add is None or not is_op(add, "Add"):
        reason = "no norm comes before this linear layer, and its only reader is not a residual Add"
        return Declined(PASS, linear.site, reason)
    return Region("LinearAdd", linear.site, frozenset([*_core(linear), add]), (add.outputs[0],))


def _slice_before(norm: ir.Node) -> list[ir.Node]:
    cut = made_by(norm.inputs[0], "Slice")
    return [cut] if cut is not None else []


def _gated(swiglu: ir.Node, linears: list[Linear]) -> list[Linear]:
    """The linear layers that make gate and up: one, split, or two."""
    by_output = {one.output: one for one in linears}
    sources = []
    for value in swiglu.inputs:
        split = made_by(value, "Split")
        sources.append(split.inputs[0] if split is not None else value)
    return [by_output[one] for one in dict.fromkeys(sources) if one in by_output]


def _norm_gated_linear(swiglu: ir.Node, linears: list[Linear]) -> Region | Declined:
    norms = {made_by(one.input, "RMSNormalization") for one in linears}
    norm = next(iter(norms), None)
    if norm is None or len(norms) != 1:
        reason = "gate and up are not linear layers of one RMSNormalization"
        return Declined(PASS, site_of(swiglu), reason)
    splits = [split for value in swiglu.inputs if (split := made_by(value, "Split")) is not None]
    cores = [node for one in linears for node in _core(one)]
    nodes = frozenset([swiglu, norm, *splits, *cores])
    return Region("NormGatedLinear", linears[0].site, nodes, tuple(swiglu.outputs))


def _cached_attention(attention: ir.Node, outside: frozenset[ir.Node] | set[ir.Node]) -> Region | Declined:
    """Everything from the projections to the output projection."""
    last = attention
    while (after := sole_consumer(last.outputs[0])) is not None and after.op_type in ("Transpose", "Reshape"):
        last = after
    nodes = frozenset(_between(last, outside))
    scatters = [
        one for value in attention.inputs[1:3] if (one := made_by(value, "TensorScatter")) is not None
    ]
    if len(scatters) != 2:
        return Declined(
            PASS, site_of(attention), "its keys and values come from no cache; run static_kv_cache"
        )
    outputs = (last.outputs[0], *(one.outputs[0] for one in scatters))
    return Region("CachedAttention", site_of(attention), nodes, outputs)


def _between(last: ir.Node, outside: frozenset[ir.Node] | set[ir.Node]) -> Iterator[ir.Node]:
    """`last` and all it needs, up to nodes `outside`."""
    pending, seen = [last], set()
    while pending:
        node = pending.pop()
        if node in outside or node in seen:
            continue
        seen.add(node)
        yield node
        pending += [
            one for value in node.inputs if value is not None and (one := value.producer()) is not None
        ]
