"""Cosines and sines of rotary embeddings as tables, one row per position."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.compiler.ir.builder import GraphBuilder
from intaglio.passes.normalize.evaluate import Part, cut
from intaglio.passes.normalize.positions import integer_sources
from intaglio.passes.rewriting import rank

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Angles:
    """Cosines (or sines) as a function of positions."""

    part: Part
    positions: ir.Value  # integers [sequence] or [1 or batch, sequence]
    others: tuple[ir.Value, ...]  # graph inputs of tokens, whose shape counts

    def rows(self, positions: NDArray[np.int64]) -> NDArray[np.generic] | str:
        """What is computed for one sequence of `positions`."""
        shape = [1] * ((rank(self.positions) or 1) - 1) + [len(positions)]
        dtype = np.int64 if self.positions.dtype is None else self.positions.dtype.numpy()
        tokens = np.zeros((1, len(positions)), np.int64)
        feeds = dict.fromkeys(self.others, tokens)
        return self.part.run({**feeds, self.positions: positions.reshape(shape).astype(dtype)})


@dataclass(frozen=True)
class Table:
    """A table `[context, width]` in the graph."""

    value: ir.Value
    positions: ir.Value
    sequence_first: bool  # what it was made of is broadcast over [batch, sequence, heads, head_dim]


@dataclass
class RotaryTables:
    """The tables of one graph: what is computed in the same way is one initialiser."""

    graph: ir.Graph
    context: int
    made: dict[tuple[bytes, bool, bool], Table] = field(default_factory=dict)

    def table(self, value: ir.Value, *, halved: bool, interleaved: bool = False) -> Table | str:
        """The table behind `value`; `halved`: of half the width, both halves (or pairs) being equal."""
        angles = self._angles(value)
        if isinstance(angles, str):
            return angles
        key = (angles.part.model.SerializeToString(deterministic=True), halved, interleaved)
        if key in self.made and self.made[key].positions is angles.positions:
            return self.made[key]
        layout = _layout(angles, self.context)
        if isinstance(layout, str):
            return f"{value.name}: {layout}"
        if halved and not _repeats(angles, interleaved):
            return f"{value.name}: its halves differ"
        stored = self._store(angles, layout[0], halved, interleaved)
        self.made[key] = Table(stored, angles.positions, layout[1])
        return self.made[key]

    def _angles(self, value: ir.Value) -> Angles | str:
        sources = integer_sources([value])
        if len(sources) != 1:
            names = [one.name for one in sources]
            return f"{value.name} is computed from {names or 'no integers'}, not from one value of positions"
        tokens = tuple(one for one in self.graph.inputs if one is not sources[0] and rank(one) == 2)
        part = cut(value, [sources[0], *tokens], self.graph.opset_imports[""])
        return part if isinstance(part, str) else Angles(part, sources[0], tokens)

    def _store(self, angles: Angles, width: int, halved: bool, interleaved: bool) -> ir.Value:
        context = self.context

        def load() -> ir.TensorProtocol:
            rows = angles.rows(np.arange(context))
            assert not isinstance(rows, str), rows
            whole = rows.reshape(context, width).astype(np.float32)
            return ir.Tensor(np.ascontiguousarray(_halved(whole, interleaved) if halved else whole))

        shape = ir.Shape([context, width // 2 if halved else width])
        kind = "sine" if any(node.op_type == "Sin" for node in angles.part.model.graph.node) else "cosine"
        builder = GraphBuilder.extend(self.graph)
        return builder.initializer(f"rotary.{kind}", ir.LazyTensor(load, ir.DataType.FLOAT, shape))


def _layout(angles: Angles, context: int) -> tuple[int, bool] | str:
    """The width of a row, and whether heads come after the sequence; why the rows make no table."""
    probe = np.array([0, 1, context - 1] if context > 2 else range(context))
    rows = angles.rows(probe)
    if isinstance(rows, str):
        return rows
    width, count = rows.shape[-1] if rows.ndim else 0, len(probe)
    if rows.size != width * count:
        return f"for {count} positions it has shape {list(rows.shape)}"
    together = rows.reshape(count, width)
    for index, position in enumerate(probe):
        alone = angles.rows(np.array([position]))
        if isinstance(alone, str) or not np.array_equal(alone.reshape(-1), together[index]):
            return "the angles of a position depend on the other positions"
    sequence_first = rows.ndim > 2 and rows.shape[-3] == count and rows.shape[-2] == 1
    return width, sequence_first and count > 1


def _repeats(angles: Angles, interleaved: bool) -> bool:
    rows = angles.rows(np.arange(3))
    if isinstance(rows, str):
        return False
    whole = rows.reshape(3, -1).astype(np.float32)
    half = _halved(whole, interleaved)
    return np.array_equal(np.repeat(half, 2, -1) if interleaved else np.tile(half, (1, 2)), whole)


def _halved(whole: Floats, interleaved: bool) -> Floats:
    return whole[:, ::2] if interleaved else whole[:, : whole.shape[-1] // 2]
