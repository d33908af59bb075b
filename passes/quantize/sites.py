"""Finding the sites that a treatment names, and giving them other weights."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence

import onnx_ir as ir

from intaglio.compiler.errors import OptionError
from intaglio.passes.linears import Linear, find_linears
from intaglio.passes.rewriting import replace
from intaglio.passes.weights import Weight, read_weight

NEAREST = 4


def linears_of(model: ir.Model, sites: Collection[str], asked_by: str) -> list[Linear]:
    """The linear layers named `sites`, in order; raises `OptionError` for all unknown names at once."""
    found = find_linears(model)
    check_sites([one.site for one in found], sites, asked_by)
    return [one for one in found if one.site in sites]


def check_sites(known: Collection[str], sites: Collection[str], asked_by: str) -> None:
    """Raise `OptionError` for all of `sites` that are not among `known`, naming the nearest ones."""
    unknown = [site for site in sites if site not in known]
    if not unknown:
        return
    lines = [f"{site!r}; known sites near it: {_near(site, known)}" for site in unknown]
    raise OptionError("\n  - ".join([f"{asked_by}: the plan names sites that the model has not", *lines]))


def equal_values(weight: Weight) -> list[ir.Value]:
    """`weight.value` and all others dequantised from the same tensors, such as a tied embedding's table."""
    return [weight.value, *_others(weight)]


def first_reader(graph: ir.Graph, values: Sequence[ir.Value]) -> ir.Node:
    """The first node in the graph's order that reads one of `values`."""
    readers = {node for value in values for node in value.consumers()}
    return next(node for node in graph if node in readers)


def replace_weight(weight: Weight, new: ir.Value) -> str:
    """Let every reader of the stored weight read `new`; the text returned names those beside the layer."""
    others = [node for value in equal_values(weight) for node in value.consumers()]
    shared = [node.name or node.op_type for node in others if node.op_type == "Gather"]
    for value in equal_values(weight):
        replace(value, new)
    return f", shared with {', '.join(shared)}" if shared else ""


def _others(weight: Weight) -> Iterator[ir.Value]:
    if weight.stored.codes is weight.value:
        return
    for node in weight.tensors[0].consumers():
        other = read_weight(node.outputs[0])
        if other and other.tensors == weight.tensors and other.value is not weight.value:
            yield other.value


def _near(site: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(site, list(known), NEAREST, cutoff=0.0)
    return ", ".join(near) or "none, it has no linear layers"
