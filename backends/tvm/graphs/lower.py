"""A graph of fixed shapes → a stage table: nodes go to emitters that claim them, or onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from intaglio.backends.tvm.graphs.arithmetic import claim_arithmetic
from intaglio.backends.tvm.graphs.attention import claim_attention
from intaglio.backends.tvm.graphs.builder import Shared, TableBuilder
from intaglio.backends.tvm.graphs.calls import CallKey
from intaglio.backends.tvm.graphs.claims import Claim, Views
from intaglio.backends.tvm.graphs.constants import is_stored, whole
from intaglio.backends.tvm.graphs.convolutions import claim_convolution
from intaglio.backends.tvm.graphs.images import claim_pooling, claim_resize
from intaglio.backends.tvm.graphs.lookups import claim_lookup
from intaglio.backends.tvm.graphs.moves import claim_move
from intaglio.backends.tvm.graphs.products import claim_product
from intaglio.backends.tvm.graphs.program import GraphProgram, GraphTable
from intaglio.backends.tvm.graphs.regions import Pending, Region, append_region, port_of, supposed
from intaglio.backends.tvm.graphs.shapes import claim_view
from intaglio.backends.tvm.graphs.tensors import claim_reduction, claim_softmax, claim_tensors
from intaglio.backends.tvm.graphs.views import View

Emitter = Callable[[ir.Node, Views], Claim | None]
EMITTERS: tuple[Emitter, ...] = (
    claim_view,
    claim_product,
    claim_convolution,
    claim_attention,
    claim_lookup,
    claim_pooling,
    claim_resize,
    claim_arithmetic,
    claim_reduction,
    claim_softmax,
    claim_tensors,
    claim_move,
)
NOTHING, ELSEWHERE = "Constant", "onnxruntime"


@dataclass(frozen=True)
class LoweredGraph:
    """A program, what is needed to write its weights, and the regions for onnxruntime."""

    program: GraphProgram
    shared: Shared
    regions: tuple[Region, ...]
    nodes: dict[str, str]  # names of nodes → the kind of kernel that computes them, or "onnxruntime"

    def write_weights(self, path: Path) -> int:
        """Pack the weights into the file `path`; its size in bytes."""
        return self.shared.arena.write(path)


def lower_graph(
    calls: Sequence[tuple[ir.Model, CallKey]], *, without: frozenset[str] = frozenset()
) -> LoweredGraph:
    """Lower a graph for calls of several kinds, for each of which it is given with the shapes fixed.

    Kernels of kinds in `without` are left to onnxruntime.

    Raises:
        UnsupportedModelError: where sizes depend on the values of inputs.
    """
    shared, regions, tables = Shared(), list[Region](), []
    nodes: dict[str, str] = {}
    for index, (model, key) in enumerate(calls):
        table = _Lowering(model, key, shared, f"call{index}", regions, without)
        tables.append(table.lowered())
        nodes |= table.nodes
    program = GraphProgram(tuple(shared.kernels), tuple(shared.buffers), tuple(tables), shared.arena.bytes)
    return LoweredGraph(program, shared, tuple(regions), nodes)


@dataclass
class _Lowering:
    """The lowering of one table."""

    model: ir.Model
    key: CallKey
    shared: Shared
    name: str
    regions: list[Region]
    without: frozenset[str]
    nodes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.table = TableBuilder(self.name, self.shared)
        self.pending = Pending()

    def lowered(self) -> GraphTable:
        """The table of all nodes."""
        graph = self.model.graph
        fed = [one for one in graph.inputs if not one.is_initializer()]
        inputs = [self.table.plain(one) for one in fed]
        done: set[ir.Node] = set()
        for node in graph:
            if node not in done and node.op_type != NOTHING and not all(map(is_stored, node.outputs)):
                done.update(self._node(node))
        self._flush()
        outputs = [port_of(str(one.name), self._result(one)) for one in graph.outputs]
        self.table.finish()
        return GraphTable(
            tuple(port_of(str(one.name), view) for one, view in zip(fed, inputs, strict=True)),
            tuple(outputs),
            dict(self.key.fixed),
            tuple(self.table.stages),
            tuple(self.table.regions),
        )

    def _node(self, node: ir.Node) -> Sequence[ir.Node]:
        """Append `node` and what its kernel computes besides; the nodes appended."""
        claim = self._claim(node)
        if claim is None:
            self.pending.nodes[node] = None
            self._count(ELSEWHERE, (node,))
            return (node,)
        if any(self.pending.makes(one) for one in claim.reads):
            self._flush()
        claim.emit(self.table)
        self._count(claim.kind, claim.nodes)
        return claim.nodes

    def _claim(self, node: ir.Node) -> Claim | None:
        views = {**self.table.views, **supposed(self.pending)} if self.pending.nodes else self.table.views
        joins = [self.pending.makes(one) for one in node.inputs if one is not None and not is_stored(one)]
        for emitter in EMITTERS:
            claim = emitter(node, views)
            if claim is None or claim.kind in self.without:
                continue
            # What is free anyway stays where its input is computed.
            return None if claim.kind == "view" and joins and all(joins) else claim
        return None

    def _flush(self) -> None:
        if self.pending.nodes:
            file = f"region-{len(self.regions)}.onnx"
            self.regions.append(append_region(self.table, self.pending, self.model.graph, file))

    def _result(self, value: ir.Value) -> View:
        view = self.table.views.get(value)
        if view is None and is_stored(value):
            view = whole(self.shared, value)
        if view is None:
            view = self.table.views[value]
        self.table.keep(view.buffer)
        return view

    def _count(self, kind: str, nodes: Sequence[ir.Node]) -> None:
        self.nodes |= {node.name or str(node.outputs[0].name): kind for node in nodes}
