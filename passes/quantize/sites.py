"""Finding the sites that a treatment names, and giving them other weights."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator

import onnx_ir as ir

from intaglio.compiler.errors import OptionError
from intaglio.passes.linears import Linear, find_linears, read_linear
from intaglio.passes.rewriting import is_op, site_of
from intaglio.passes.weights import Weight, read_weight

NEAREST = 4


def linears_of(model: ir.Model, sites: Collection[str], asked_by: str) -> Iterator[Linear]:
    """The linear layers named `sites`, in order, each as it is when it is asked for.

    Raises `OptionError` for all unknown names at once.
    """
    found = find_linears(model)
    check_sites([one.site for one in found], sites, asked_by)
    current = (read_linear(one.matmul) for one in found if one.site in sites)
    return (one for one in current if one is not None)


def check_sites(known: Collection[str], sites: Collection[str], asked_by: str) -> None:
    """Raise `OptionError` for all of `sites` that are not among `known`, naming the nearest ones."""
    unknown = [site for site in sites if site not in known]
    if not unknown:
        return
    lines = [f"{site!r}; known sites near it: {_near(site, known)}" for site in unknown]
    raise OptionError("\n  - ".join([f"{asked_by}: the plan names sites that the model has not", *lines]))


def first_reader(graph: ir.Graph, linear: Linear) -> ir.Node:
    """The first node in the graph's order that will read a new weight of `linear`."""
    readers = {node for node, _ in _uses(linear)}
    return next(node for node in graph if node in readers)


def replace_weight(linear: Linear, new: ir.Value) -> str:
    """Let the layer read `new`, and embeddings that share its stored weight; the text returned names those.

    Other linear layers that share the weight keep it: they have treatments of their own.
    """
    uses = _uses(linear)
    for node, place in uses:
        node.replace_input_with(place, new)
    shared = [site_of(node) for node, _ in uses if node is not linear.transpose]
    return f", shared with {', '.join(shared)}" if shared else ""


def _uses(linear: Linear) -> list[tuple[ir.Node, int]]:
    values = [linear.weight.value, *_equal_values(linear.weight)]
    uses = [(use.node, use.idx) for value in values for use in value.uses()]
    return [(node, place) for node, place in uses if node is linear.transpose or is_op(node, "Gather")]


def _equal_values(weight: Weight) -> Iterator[ir.Value]:
    """Other values dequantised from the same tensors, such as a tied embedding's table."""
    if weight.stored.codes is weight.value:
        return
    for node in weight.tensors[0].consumers():
        other = read_weight(node.outputs[0])
        if other and other.tensors == weight.tensors and other.value is not weight.value:
            yield other.value


def _near(site: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(site, list(known), NEAREST, cutoff=0.0)
    return ", ".join(near) or "none, it has no linear layers"
