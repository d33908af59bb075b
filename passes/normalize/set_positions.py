"""One value of positions for all that reads positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.ir.builder import GraphBuilder
from intaglio.passes.normalize.positions import offset_of
from intaglio.passes.rewriting import input_at, is_op, rank, site_of, sizes
from intaglio.passes.weights import read_weight

GIVEN = "position_ids"  # what exporters call a graph input of positions
POSITIONS = 3  # input of RotaryEmbedding


@dataclass(frozen=True)
class _Reader:
    """A node that looks something up by position."""

    node: ir.Node
    place: int
    offset: int  # added to the positions before


def position_inputs(graph: ir.Graph) -> list[ir.Value]:
    """Graph inputs that count the tokens of every sequence."""
    turning = {input_at(node, POSITIONS) for node in graph if is_op(node, "RotaryEmbedding")}
    return [one for one in graph.inputs if one in turning or one.name == GIVEN]


def set_positions(graph: ir.Graph, tokens: ir.Value, position_ids: ir.Value) -> None:
    """Let all rotary embeddings and tables of positions read `position_ids`, `[batch, sequence]`.

    Raises `UnsupportedModelError` that lists the readers whose positions do not count the tokens of a
    sequence.
    """
    found = list(_readers(graph, tokens))
    problems = [one for one in found if isinstance(one, str)]
    if problems:
        raise UnsupportedModelError("static_kv_cache: these positions cannot follow a cache:", problems)
    readers = [one for one in found if isinstance(one, _Reader)]
    shifted = {0: position_ids}
    for one in readers:
        if one.offset not in shifted:
            shifted[one.offset] = _shifted(graph, position_ids, one.offset)
        one.node.resize_inputs(max(len(one.node.inputs), one.place + 1))
        one.node.replace_input_with(one.place, shifted[one.offset])
        _spread(one.node, position_ids)


def other_angles(graph: ir.Graph) -> list[str]:
    """Angles that the graph computes still: those of tables are gone, so these turn by other positions."""
    left = [node for node in graph if is_op(node, "Cos") or is_op(node, "Sin")]
    return [f"{site_of(node)}: {node.op_type} of positions of its own, in no table" for node in left]


def _readers(graph: ir.Graph, tokens: ir.Value) -> Iterator[_Reader | str]:
    for node in graph:
        if is_op(node, "RotaryEmbedding"):
            yield _rotary(node, graph, tokens)
        elif is_op(node, "Gather") and read_weight(node.inputs[0]) is not None:
            reader = _table(node, graph, tokens)
            if reader is not None:
                yield reader


def _rotary(node: ir.Node, graph: ir.Graph, tokens: ir.Value) -> _Reader | str:
    ids = input_at(node, POSITIONS)
    table = node.inputs[1]
    if ids is None and (table is None or table.const_value is None):
        return f"{site_of(node)}: its cosines are computed, not looked up"
    if ids is None:
        return _Reader(node, POSITIONS, 0)
    offset = offset_of(ids, tokens, graph.opset_imports[""], position_inputs(graph))
    if offset == 0:
        return _Reader(node, POSITIONS, 0)
    return offset if isinstance(offset, str) else f"{site_of(node)}: its positions start at {offset}"


def _table(node: ir.Node, graph: ir.Graph, tokens: ir.Value) -> _Reader | str | None:
    ids = node.inputs[1]
    counted = position_inputs(graph)
    if ids is None or (ids.producer() is None and ids not in counted):
        return None  # tokens, or kinds of tokens
    if node.attributes.get_int("axis", 0) != 0:
        return None
    offset = offset_of(ids, tokens, graph.opset_imports[""], counted)
    if isinstance(offset, str):
        return f"{site_of(node)}: {offset}"
    if offset is None:
        return None
    if rank(ids) == 1 and not all(is_op(one, "Add") for one in node.outputs[0].consumers()):
        return f"{site_of(node)}: its rows have no axis for the batch"
    return _Reader(node, 1, offset)


def _shifted(graph: ir.Graph, position_ids: ir.Value, offset: int) -> ir.Value:
    producer = position_ids.producer()
    assert producer is not None, "the clock computes its positions"
    after = next(node for node in _following(graph, producer))
    builder = GraphBuilder.extend(graph, before=after)
    inputs, shape = [position_ids, builder.integer(offset)], sizes(position_ids)
    return builder.node("Add", inputs, name=f"position_ids.{offset}", dtype=ir.DataType.INT64, shape=shape)


def _following(graph: ir.Graph, node: ir.Node) -> Iterator[ir.Node]:
    nodes = iter(graph)
    for one in nodes:
        if one is node:
            break
    yield from nodes


def _spread(node: ir.Node, position_ids: ir.Value) -> None:
    """A table's rows now come for every sequence of the batch."""
    result = node.outputs[0]
    if is_op(node, "Gather") and result.shape is not None:
        result.shape = ir.Shape([*(sizes(position_ids) or []), *(sizes(result) or [])[-1:]])
