"""What holds of values, nodes and names; each rule yields a sentence for every place that breaks it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

import onnx_ir as ir

from intaglio.compiler.ir.blocks import block_problems, is_blocked
from intaglio.compiler.ir.bodies import bodies, subgraphs
from intaglio.compiler.ir.functions import OPSET

# Metadata in which a front end says what it left as it came, and why; normalising reports it as declined.
OPSET_KEPT = "intaglio.opset_kept"  # the model is not of our IR's opset
QUANTIZATION_KEPT = "intaglio.quantization_kept"  # weights that are not written as our IR does
ATTENTION_KEPT = "intaglio.attention_kept"  # attention is not one operator


def opset_is_recent(model: ir.Model) -> Iterator[str]:
    """Opset 25 or later, in functions too."""
    version = model.opset_imports.get("")
    if version is None or version < OPSET:
        yield f"the model imports opset {version}"
    for function in model.functions.values():
        used = function.opset_imports.get("")
        if used is not None and used < OPSET:
            yield f"function {function.name} imports opset {used}"


def opset_is_recent_or_kept(model: ir.Model) -> Iterator[str]:
    """The same, unless the metadata say why the model stays on its own."""
    if OPSET_KEPT not in model.metadata_props:
        yield from opset_is_recent(model)


def values_are_defined_before_use(model: ir.Model) -> Iterator[str]:
    """Nodes stand in an order in which they can run; graphs inside nodes see what is around them."""
    for body in bodies(model):
        defined = set(body.outer) | body.given()
        for node in body.content:
            for value in node.inputs:
                if value is not None and value not in defined:
                    yield f"{body.place}: {at(node)} uses {value.name!r}, which is not defined before it"
            defined |= set(node.outputs)


def outputs_are_produced(model: ir.Model) -> Iterator[str]:
    """Outputs are values of the same body."""
    for body in bodies(model):
        available = body.given() | {value for node in body.content for value in node.outputs}
        for value in body.content.outputs:
            if value not in available:
                yield f"{body.place}: nothing produces output {value.name!r}"


def no_dead_nodes(model: ir.Model) -> Iterator[str]:
    """Every node makes something that is used."""
    for body in bodies(model):
        kept = set(body.content.outputs)
        for node in body.content:
            if not any(value.uses() or value in kept for value in node.outputs):
                yield f"{body.place}: nothing uses the outputs of {at(node)}"


def initializers_have_values(model: ir.Model) -> Iterator[str]:
    """Initialisers are stored, in the shape that they are declared to have."""
    for value in chain.from_iterable(graph.initializers.values() for graph in model.graphs()):
        if value.const_value is None:
            yield f"initialiser {value.name!r} has no value"
        elif value.shape is None or value.shape != value.const_value.shape:
            stored = value.const_value.shape
            yield f"initialiser {value.name!r} is declared {value.shape}, its value is {stored}"


def functions_hold_no_initializers(model: ir.Model) -> Iterator[str]:
    """Function bodies take weights as inputs."""
    for function in model.functions.values():
        for name in function.graph.initializers:
            yield f"function {function.name}: initialiser {name!r}; make it an input or a Constant"


def names_are_unique(model: ir.Model) -> Iterator[str]:
    """Within a body, values and nodes have names of their own."""
    for body in bodies(model):
        values = list(dict.fromkeys([*body.content.inputs, *body.given()]))
        made = (value for node in body.content for value in node.outputs)
        # An output without a name is one that its node leaves out.
        values += [value for value in made if value.name or value.uses() or value in body.content.outputs]
        kinds = (("value", [one.name for one in values]), ("node", [one.name for one in body.content]))
        for kind, names in kinds:
            yield from (
                f"{body.place}: {count} {kind}s are named {name!r}" for name, count in _repeated(names)
            )


def no_subgraphs(model: ir.Model) -> Iterator[str]:
    """No node holds a graph."""
    for body in bodies(model):
        for node in body.content:
            if subgraphs(node):
                yield f"{body.place}: {at(node)} holds a subgraph"


def blocks_agree(model: ir.Model) -> Iterator[str]:
    """Scales, zero points and minima fit the blocks of their codes."""
    for body in bodies(model):
        for node in body.content:
            if is_blocked(node):
                yield from (f"{body.place}: {at(node)} {problem}" for problem in block_problems(node))


def _repeated(names: Sequence[str | None]) -> list[tuple[str | None, int]]:
    return [(name, count) for name, count in Counter(names).items() if count > 1 or not name]


def at(node: ir.Node) -> str:
    """How messages name `node`."""
    return f"{node.op_type} {node.name!r}"
