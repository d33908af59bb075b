"""From whole sequences to one that grows: earlier keys and values come from a cache of fixed size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.compiler.errors import OptionError, UnsupportedModelError
from intaglio.compiler.ir.builder import Dimension, GraphBuilder
from intaglio.passes.normalize.set_positions import other_angles, position_inputs, set_positions
from intaglio.passes.result import Applied, Declined, PassResult, shortfall
from intaglio.passes.rewriting import input_at, is_op, remove_unused, site_of

WHOLE, FLOAT = ir.DataType.INT64, ir.DataType.FLOAT
MASK, LENGTHS = 3, 6  # inputs of Attention


@dataclass(frozen=True)
class StaticKvCache:
    """`Attention(q, k, v)` → `Attention(q, scatter(key_cache.i, k), scatter(value_cache.i, v), length)`.

    The graph gains the inputs `position` int64 `[batch]`, the tokens already in the cache, and `key_cache.i`,
    `value_cache.i` float32 `[batch, kv_heads, capacity, head_dim]`, and the outputs `key_cache.i.updated`,
    `value_cache.i.updated`. `length` is `position + sequence`. The positions that rotary embeddings turn by,
    and those whose rows a learned table gives, become `position + 0, 1, …` (and what was added to them),
    however they were computed; a graph input of positions disappears.

    Exceptions:
    1. The attention is not causal, has a mask, or has a cache already: declined.
    2. The sizes of its keys or values are not known: declined.
    With `expected`, fewer cached attentions than that after the pass are declined.
    Raises `OptionError` where the model has no input `input_ids`, or `capacity` is less than 1, and
    `UnsupportedModelError`, with all of them, where positions are something else: with a cache the model
    would compute something else.
    """

    capacity: int
    expected: int | None = None
    name: str = "static_kv_cache"

    def __call__(self, model: ir.Model) -> PassResult:
        """Give every attention a cache."""
        problems = {node: _problem(node) for node in model.graph if is_op(node, "Attention")}
        able = [node for node, problem in problems.items() if problem is None]
        missing = shortfall(self.name, self.expected, len(able), "attentions to give a cache")
        declined = [Declined(self.name, site_of(node), one) for node, one in problems.items() if one]
        if able:
            self._rewrite(model, able)
        detail = f"cache of {self.capacity} tokens"
        applied = [Applied(self.name, site_of(node), detail) for node in able]
        return PassResult.of(model, [*missing, *declined, *applied])

    def _rewrite(self, model: ir.Model, attentions: list[ir.Node]) -> None:
        clock = _Clock.start(model.graph, self.capacity)
        given = position_inputs(model.graph)
        set_positions(model.graph, clock.tokens, clock.position_ids)
        for index, node in enumerate(attentions):
            _give_cache(model.graph, node, index, clock)
        remove_unused(model)
        for value in [one for one in given if not one.uses()]:
            model.graph.inputs.remove(value)
        if problems := other_angles(model.graph):
            raise UnsupportedModelError("static_kv_cache: this does not follow a cache:", problems)
        clock.position_ids.name = "position_ids"  # free now, if the trace had positions of its own


@dataclass(frozen=True)
class _Clock:
    """What all layers share: where the sequence stands."""

    tokens: ir.Value  # [batch, sequence]
    batch: Dimension
    capacity: int
    position: ir.Value  # [batch]
    length: ir.Value  # [batch], tokens in the cache after this call
    position_ids: ir.Value  # [batch, sequence]

    @staticmethod
    def start(graph: ir.Graph, capacity: int) -> _Clock:
        if capacity < 1:
            raise OptionError(f"static_kv_cache: capacity is {capacity}; it must be at least 1.")
        tokens = next((one for one in graph.inputs if one.name == "input_ids"), None)
        if tokens is None or tokens.shape is None:
            raise OptionError("static_kv_cache: the model has no input input_ids of shape [batch, sequence].")
        batch, sequence = _dimension(tokens.shape[0]), _dimension(tokens.shape[1])
        builder = GraphBuilder.extend(graph, before=graph[0])
        position = builder.input("position", WHOLE, [batch])
        size = builder.node(
            "Shape", [tokens], {"start": 1, "end": 2}, name="sequence", dtype=WHOLE, shape=[1]
        )
        length = builder.node("Add", [position, size], name="length", dtype=WHOLE, shape=[batch])
        ids = _position_ids(builder, position, size, [batch, sequence])
        return _Clock(tokens, batch, capacity, position, length, ids)


def _position_ids(
    builder: GraphBuilder, position: ir.Value, size: ir.Value, shape: list[Dimension]
) -> ir.Value:
    """`position + 0, 1, …` for every sequence, `[batch, sequence]`."""
    count = builder.node("Squeeze", [size], name="sequence.scalar", dtype=WHOLE, shape=[])
    span = [builder.integer(0), count, builder.integer(1)]
    steps = builder.node("Range", span, name="steps", dtype=WHOLE, shape=shape[1:])
    inputs = [position, builder.integers([1])]
    column = builder.node("Unsqueeze", inputs, name="position.column", dtype=WHOLE, shape=[shape[0], 1])
    return builder.node("Add", [column, steps], name="position_ids", dtype=WHOLE, shape=shape)


def _problem(node: ir.Node) -> str | None:
    if node.attributes.get_int("is_causal", 0) != 1:
        return "the attention is not causal (is_causal is 0), so later tokens would change earlier ones"
    if any(input_at(node, index) is not None for index in range(MASK, LENGTHS + 1)):
        return "the attention has a mask or a cache already"
    for value in node.inputs[1:3]:
        if value is None or value.shape is None or len(value.shape) != 4:
            return "the shape of its keys or values is not known to be [batch, kv_heads, sequence, head_dim]"
        if not all(isinstance(value.shape[axis], int) for axis in (1, 3)):
            return f"the heads of {value.name} are {value.shape}; their number and size must be known"
    return None


def _give_cache(graph: ir.Graph, node: ir.Node, index: int, clock: _Clock) -> None:
    builder = GraphBuilder.extend(graph, before=node)
    node.resize_inputs(LENGTHS + 1)
    for place, (kind, update) in enumerate(_keys_and_values(node), start=1):
        assert update.shape is not None, "checked above"
        shape = [clock.batch, _dimension(update.shape[1]), clock.capacity, _dimension(update.shape[3])]
        cache = builder.input(f"{kind}_cache.{index}", FLOAT, shape)
        updated = builder.node(
            "TensorScatter",
            [cache, update, clock.position],
            {"axis": 2, "mode": "linear"},
            name=f"{kind}_cache.{index}.updated",
            dtype=FLOAT,
            shape=shape,
        )
        graph.outputs.append(updated)
        node.replace_input_with(place, updated)
    node.replace_input_with(LENGTHS, clock.length)


def _keys_and_values(node: ir.Node) -> Iterator[tuple[str, ir.Value]]:
    for kind, value in zip(("key", "value"), node.inputs[1:3], strict=True):
        assert value is not None, "checked above"
        yield kind, value


def _dimension(size: int | ir.SymbolicDim) -> Dimension:
    return size if isinstance(size, int) else size.value
