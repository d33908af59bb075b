"""Rotary embedding, however it was spelled, as `RotaryEmbedding` with tables."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from intaglio.compiler.ir.builder import GraphBuilder
from intaglio.passes.normalize.rotary_parts import Rotation, rotations
from intaglio.passes.normalize.rotary_tables import RotaryTables, Table
from intaglio.passes.result import Applied, Declined, PassResult, shortfall
from intaglio.passes.rewriting import (
    count,
    described,
    input_at,
    insert,
    is_op,
    made_by,
    rank,
    remove_unused,
    site_of,
    sizes,
    supersede,
)

POSITIONS = 3
HEADS_FIRST = [0, 2, 1, 3]


@dataclass(frozen=True)
class RecognizeRotary:
    """`x · cos(p · f) + rotated(x) · sin(p · f)` → `RotaryEmbedding(x, cosines, sines, p)`.

    `rotated` swaps the halves of the last axis, or its neighbours (`interleaved`), and negates the first of
    each pair; the parts may be written out, too. The tables hold what the graph computes for the positions
    0 … `context` - 1, any scaling included; they are computed when they are read, and layers that compute the
    same share one. Where `x` is `[batch, sequence, heads, head_dim]`, transposes come around the op. A
    `RotaryEmbedding` without positions gets tables as well.
    `Concat(RotaryEmbedding(x[…, :r]), x[…, r:])` → `RotaryEmbedding(x; rotary_embedding_dim=r)`.

    Exceptions:
    1. `context` is not given: what is spelled out stays, and is declined.
    2. Cosines are computed from something else than one integer value of positions, or those of a position
       depend on other positions: declined.
    3. `x` is not known to have four axes: declined.
    With `expected`, fewer rotary embeddings than that after the pass are declined.
    """

    context: int | None
    expected: int | None = None
    name: str = "recognize_rotary"

    def __call__(self, model: ir.Model) -> PassResult:
        """Rewrite every rotation found."""
        accounts: list[Applied | Declined] = []
        tables = RotaryTables(model.graph, self.context or 0)
        for node in list(model.graph):
            if is_op(node, "RotaryEmbedding"):
                accounts += self._with_tables(node, tables)
            else:
                accounts += [self._from_rotation(one, tables) for one in rotations(node)]
        accounts += [self._partial(node) for node in list(model.graph) if _leaves_rest(node) is not None]
        remove_unused(model)
        found = count(model, "RotaryEmbedding")
        missing = shortfall(self.name, self.expected, found, "rotary embeddings")
        return PassResult.of(model, [*missing, *accounts])

    def _from_rotation(self, found: Rotation, tables: RotaryTables) -> Applied | Declined:
        site = site_of(found.last)
        pair = self._pair(found.cosine, found.sine, found.halved, found.interleaved, tables)
        if isinstance(pair, str):
            return Declined(self.name, site, pair)
        if rank(found.input) != 4:
            return Declined(self.name, site, f"{found.input.name} is not known to have four axes")
        inputs = [one.value for one in pair]
        node = _rotated(found, inputs, _position_ids(found.last, pair[0].positions), pair[0].sequence_first)
        return Applied(self.name, site_of(node), f"RotaryEmbedding, {self.context} positions")

    def _pair(
        self, cosine: ir.Value, sine: ir.Value, halved: bool, interleaved: bool, tables: RotaryTables
    ) -> tuple[Table, Table] | str:
        if self.context is None:
            return "the number of positions is not known, so cosines and sines stay computed"
        cosines = tables.table(cosine, halved=halved, interleaved=interleaved)
        sines = tables.table(sine, halved=halved, interleaved=interleaved)
        if isinstance(cosines, str) or isinstance(sines, str):
            return cosines if isinstance(cosines, str) else str(sines)
        if cosines.positions is not sines.positions:
            return f"{cosine.name} and {sine.name} are of different positions"
        return cosines, sines

    def _with_tables(self, node: ir.Node, tables: RotaryTables) -> list[Applied | Declined]:
        cosine, sine = node.inputs[1:3]
        assert cosine is not None, "a required input of a standard op"
        assert sine is not None, "a required input of a standard op"
        if input_at(node, POSITIONS) is not None:
            return []
        if self.context is None:
            return self._spread(node)
        pair = self._pair(cosine, sine, False, False, tables)
        if isinstance(pair, str):
            return [Declined(self.name, site_of(node), pair)]
        node.resize_inputs(POSITIONS + 1)
        for place, value in enumerate([*(one.value for one in pair), _position_ids(node, pair[0].positions)]):
            node.replace_input_with(1 + place, value)
        return [Applied(self.name, site_of(node), f"tables of {self.context} positions")]

    def _spread(self, node: ir.Node) -> list[Applied | Declined]:
        """Cosines of one sequence for all of a batch: the op wants them for each."""
        whole, narrow = sizes(node.inputs[0]), sizes(node.inputs[1])
        if whole is None or narrow is None or narrow[0] != 1 or whole[0] == 1:
            return []
        builder = GraphBuilder.extend(_graph(node), before=node)
        size = builder.node("Shape", [node.inputs[0]], {"start": 0, "end": 1})
        target = builder.node("Concat", [size, builder.integers([1, 1])], {"axis": 0})
        for place in (1, 2):
            spread = builder.node("Expand", [node.inputs[place], target])
            node.replace_input_with(place, spread)
        return [Applied(self.name, site_of(node), "cosines and sines for every sequence of a batch")]

    def _partial(self, concat: ir.Node) -> Applied:
        rotary = _leaves_rest(concat)
        assert rotary is not None, "asked before"
        source = made_by(rotary.inputs[0], "Split")
        assert source is not None, "asked before"
        width = (sizes(rotary.outputs[0]) or sizes(rotary.inputs[0]) or [None])[-1]
        node = insert(concat, "RotaryEmbedding", [source.inputs[0], *rotary.inputs[1:]])
        node.attributes.update(rotary.attributes)
        node.attributes["rotary_embedding_dim"] = ir.AttrInt64("rotary_embedding_dim", int(width or 0))
        described(concat.outputs[0], node.outputs[0], sizes(concat.outputs[0]))
        supersede(concat, node)
        return Applied(self.name, site_of(node), f"RotaryEmbedding of the first {width} columns")


def _leaves_rest(concat: ir.Node) -> ir.Node | None:
    """The rotary embedding of the first part of a value, if `concat` joins it with the unchanged rest."""
    if not is_op(concat, "Concat") or len(concat.inputs) != 2:
        return None
    rotary, rest = made_by(concat.inputs[0], "RotaryEmbedding"), made_by(concat.inputs[1], "Split")
    if rotary is None or rest is None or concat.attributes["axis"].as_int() not in (-1, 3):
        return None
    parts = (rotary.inputs[0], concat.inputs[1])
    width = (sizes(rotary.inputs[0]) or [None])[-1]
    known = isinstance(width, int) and rank(rest.inputs[0]) == 4
    return rotary if known and tuple(rest.outputs) == parts else None


def _position_ids(before: ir.Node, positions: ir.Value) -> ir.Value:
    """`[1 or batch, sequence]`, int64."""
    value = positions
    if value.dtype is not None and value.dtype != ir.DataType.INT64:
        value = insert(before, "Cast", [value], {"to": int(ir.DataType.INT64)}).outputs[0]
        described(positions, value, sizes(positions)).type = ir.TensorType(ir.DataType.INT64)
    if rank(positions) != 1:
        return value
    axis = GraphBuilder.extend(_graph(before), before=before).integers([0])
    row = insert(before, "Unsqueeze", [value, axis]).outputs[0]
    return described(value, row, [1, *(sizes(positions) or [None])])


def _rotated(found: Rotation, tables: list[ir.Value], positions: ir.Value, sequence_first: bool) -> ir.Node:
    last, source = found.last, found.input
    attributes = {"interleaved": 1} if found.interleaved else {}
    if not sequence_first:
        node = insert(last, "RotaryEmbedding", [source, *tables, positions], attributes)
        described(last.outputs[0], node.outputs[0], sizes(source))
        supersede(last, node)
        return node
    shape = sizes(source) or []
    moved = [shape[axis] for axis in HEADS_FIRST]
    turned = insert(last, "Transpose", [source], {"perm": HEADS_FIRST})
    described(source, turned.outputs[0], moved)
    node = insert(last, "RotaryEmbedding", [turned.outputs[0], *tables, positions], attributes)
    described(source, node.outputs[0], moved)
    back = insert(last, "Transpose", [node.outputs[0]], {"perm": HEADS_FIRST})
    described(source, back.outputs[0], shape)
    supersede(last, back)
    return node


def _graph(node: ir.Node) -> ir.Graph:
    graph = node.graph
    assert isinstance(graph, ir.Graph), "only nodes of a graph are rewritten"
    return graph
