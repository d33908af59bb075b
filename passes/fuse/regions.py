"""Where the regions of a canonical decoder are: the parts that one kernel each computes."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from intaglio.compiler.ir.functions import DOMAIN
from intaglio.compiler.ir.index_arithmetic import index_nodes
from intaglio.compiler.ir.match import sole_consumer
from intaglio.passes.fuse.outline import Region
from intaglio.passes.fuse.rowwise import columns_of, is_stored
from intaglio.passes.linears import Linear, find_linears
from intaglio.passes.result import Declined
from intaglio.passes.rewriting import constant, is_op, made_by, site_of
from intaglio.passes.weights import read_weight

PASS = "fuse_regions"
GATES = ("SwiGLU", "GeGLU")
# Readers that may each compute the norm before them anew: q, k and v where they could not be merged.
NORM_COPIES = 3


def find_regions(model: ir.Model) -> Iterator[Region | Declined]:
    """Every region with stored weights or a cache; what should be in one and is not, with the reason."""
    linears = find_linears(model)
    gates = {node: _gated(node, linears) for node in model.graph if _is_gate(node)}
    gated = {one.matmul for found in gates.values() for one in found}
    index = index_nodes(model.graph)
    yield from _embeddings(model.graph)
    claimed: set[ir.Node] = set()
    for linear in linears:
        if linear.matmul not in gated:
            region = _linear(linear, claimed)
            claimed |= region.nodes
            yield region
    for node, found in gates.items():
        if found:
            yield _gated_linear(node, found)
    products = {one.matmul for one in linears}
    for node in model.graph:
        if is_op(node, "Attention"):
            yield _cached_attention(node, products | index | _row_arithmetic(model.graph))


def _is_gate(node: ir.Node) -> bool:
    return node.domain == DOMAIN and node.op_type in GATES


def _embeddings(graph: ir.Graph) -> Iterator[Region]:
    for node in graph:
        weight = read_weight(node.inputs[0]) if is_op(node, "Gather") else None
        if weight is not None:
            yield Region("Embedding", site_of(node), frozenset([node, *weight.nodes]), tuple(node.outputs))


def _core(linear: Linear) -> set[ir.Node]:
    """A linear layer with what dequantises its weight and rounds its activations."""
    quantize = [linear.quantize] if linear.quantize is not None else []
    return {linear.matmul, linear.transpose, *linear.weight.nodes, *quantize}


def _linear(linear: Linear, claimed: set[ir.Node]) -> Region:
    norm = _own_norm(linear)
    if norm is not None:
        nodes = frozenset([*_core(linear), norm, *_slice_before(norm)])
        return Region("NormLinear", linear.site, nodes, (linear.output,))
    add = sole_consumer(linear.output)
    if add is not None and add not in claimed and _is_residual(add, linear.output):
        return Region("LinearAdd", linear.site, frozenset([*_core(linear), add]), (add.outputs[0],))
    return Region("Linear", linear.site, frozenset(_core(linear)), (linear.output,))


def _own_norm(linear: Linear) -> ir.Node | None:
    """The norm before a layer, unless so many read it that it is better computed once."""
    norm = made_by(linear.input, "RMSNormalization")
    if norm is None:
        return None
    readers = {reader for node in norm.outputs[0].consumers() for reader in _through_rounding(node)}
    return norm if len(readers) <= NORM_COPIES else None


def _through_rounding(node: ir.Node) -> tuple[ir.Node, ...]:
    is_rounding = is_op(node, "QuantizeActivation", DOMAIN)
    return tuple(node.outputs[0].consumers()) if is_rounding else (node,)


def _is_residual(add: ir.Node, product: ir.Value) -> bool:
    """Whether `add` sums `product` and another activation of its shape, and not a bias."""
    if not is_op(add, "Add"):
        return False
    (other,) = [one for one in add.inputs if one is not product] or [product]
    if other is None or other is product or other.producer() is None or constant(other) is not None:
        return False
    return other.shape is None or product.shape is None or other.shape == product.shape


def _slice_before(norm: ir.Node) -> list[ir.Node]:
    cut = made_by(norm.inputs[0], "Slice")
    return [cut] if cut is not None else []


def _gated(gate: ir.Node, linears: list[Linear]) -> list[Linear]:
    """The linear layers that make gate and up: one, split, or two; none where something lies between."""
    by_output = {one.output: one for one in linears}
    sources = []
    for value in gate.inputs:
        split = made_by(value, "Split")
        sources.append(split.inputs[0] if split is not None else value)
    found = [by_output[one] for one in dict.fromkeys(sources) if one in by_output]
    readers = {reader for one in found for reader in one.output.consumers()}
    splits = {made_by(value, "Split") for value in gate.inputs}
    complete = len(found) == len(dict.fromkeys(sources)) and readers <= {gate, *splits}
    return found if complete and len({one.input for one in found}) == 1 else []


def _gated_linear(gate: ir.Node, linears: list[Linear]) -> Region:
    norm = made_by(linears[0].input, "RMSNormalization")
    splits = [split for value in gate.inputs if (split := made_by(value, "Split")) is not None]
    cores = [node for one in linears for node in _core(one)]
    own = norm if norm is not None and all(_own_norm(one) is norm for one in linears) else None
    kind, norms = ("NormGatedLinear", [own]) if own is not None else ("GatedLinear", [])
    nodes = frozenset([gate, *norms, *splits, *cores])
    return Region(kind, linears[0].site, nodes, tuple(gate.outputs))


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


def _row_arithmetic(graph: ir.Graph) -> set[ir.Node]:
    """Arithmetic on rows that attention does not do to its projections: all but a bias or a factor."""
    return {
        node
        for node in graph
        if columns_of(node) is not None
        and not (node.op_type in ("Add", "Mul") and any(is_stored(one) for one in node.inputs))
    }


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
