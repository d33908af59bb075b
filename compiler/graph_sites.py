"""What a graph consists of: the region that runs it, and its linear layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import onnx_ir as ir

from intaglio.backends.onnxruntime import product_forms
from intaglio.compiler.explain_graph import CONSTANT
from intaglio.compiler.graph_ports import GraphPort, GraphPorts
from intaglio.compiler.plan import Plan
from intaglio.passes.linears import Linear, find_linears
from intaglio.passes.weights import tensor_of

REGION_SITE = "region"
BACKEND, NATIVE = "onnxruntime", "tvm"
FREE = ("onnxruntime", "view")  # kinds that are no kernel of ours


def sites_of(
    model: ir.Model, ports: GraphPorts, plan: Plan, kernels: Mapping[str, str]
) -> tuple[tuple[dict[str, Any], ...], dict[str, str]]:
    """(the sites of the treated graph `model`, in order: the region, then its layers; node → its site).

    `kernels` says of which kind the kernel is that computes a node, where there is a native program.
    """
    linears, forms = find_linears(model), product_forms(model)
    region = _unused(REGION_SITE, {one.site for one in linears})
    layers = [_layer(one, plan, forms[one.matmul], kernels) for one in linears]
    everything = sum(tensor_of(one).nbytes for one in model.graph.initializers.values())
    rest = max(0, everything - sum(one["bytes"] for one in layers))  # a shared weight is told of each layer
    nodes = {_name(node): region for node in _nodes(model)}
    for linear in linears:
        nodes |= dict.fromkeys(_layer_nodes(linear), linear.site)
    return (_region(region, model, ports, rest, kernels), *layers), nodes


def operators_of(model: ir.Model) -> dict[str, str]:
    """Node → its operator, nodes of subgraphs included."""
    return {_name(node): ".".join(filter(None, (node.domain, node.op_type))) for node in _nodes(model)}


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    return iter(ir.traversal.RecursiveGraphIterator(model.graph))


def _region(
    name: str, model: ir.Model, ports: GraphPorts, other_bytes: int, kernels: Mapping[str, str]
) -> dict[str, Any]:
    ours = sum(kind not in FREE for kind in kernels.values())
    return {
        "site": name,
        "kind": "region",
        "backend": NATIVE if ours else BACKEND,
        **({"nodes with kernels": ours} if ours else {}),
        "nodes": sum(one.op_type != CONSTANT for one in _nodes(model)),
        "inputs": _handed_over(ports.inputs),
        "outputs": _handed_over(ports.outputs),
        "crossings": 2,  # in and out, once per call
        "bytes": other_bytes,  # of weights that belong to no layer
    }


def _layer(linear: Linear, plan: Plan, form: str, kernels: Mapping[str, str]) -> dict[str, Any]:
    kind = kernels.get(_name(linear.matmul), BACKEND)
    return {
        "site": linear.site,
        "kind": "linear",
        "backend": BACKEND if kind == BACKEND else NATIVE,
        "kernel": form if kind == BACKEND else kind,
        "treatment": str(plan[linear.site]),
        "format": linear.weight.format,
        "shape": list(linear.weight.shape),
        "bytes": sum(tensor_of(one).nbytes for one in linear.weight.tensors),
    }


def _handed_over(ports: Mapping[str, GraphPort]) -> str:
    return ", ".join(f"{name} {port} ({_size(port)})" for name, port in ports.items()) or "none"


def _size(port: GraphPort) -> str:
    """Bytes, as a formula where sizes are open."""
    if port.shape is None:
        return "any number of bytes"
    known = prod(one for one in port.shape if isinstance(one, int)) * port.numpy.itemsize
    open_sizes = ["?" if one is None else str(one) for one in port.shape if not isinstance(one, int)]
    return " × ".join([f"{known:,}", *open_sizes]) + " bytes"


def _layer_nodes(linear: Linear) -> list[str]:
    nodes = [linear.matmul, linear.transpose, *linear.weight.nodes]
    if linear.quantize is not None:
        nodes.append(linear.quantize)
    return [_name(one) for one in nodes]


def _name(node: ir.Node) -> str:
    return node.name or str(node.outputs[0].name)


def _unused(name: str, names: set[str]) -> str:
    while name in names:
        name += "."
    return name
