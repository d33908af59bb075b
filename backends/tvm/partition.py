"""Dividing a fused decoder between the kernels and onnxruntime.

Calls that a kernel computes become regions. All other nodes are gathered, in the order of the graph, until a
kernel needs what they make: such a group is one region of onnxruntime.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import onnx_ir as ir

from intaglio.backends.tvm.checks import problem_of
from intaglio.backends.tvm.function_values import Unreadable
from intaglio.backends.tvm.positions import Positions
from intaglio.backends.tvm.reading import read_region
from intaglio.backends.tvm.regions import ForeignRegion, Region
from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.ir import DOMAIN
from intaglio.compiler.ir.extract import extract
from intaglio.compiler.ir.index_arithmetic import index_nodes

UPDATED = ".updated"


def partition(model: ir.Model) -> list[Region]:
    """The regions of `model` in the order in which they run.

    Raises `UnsupportedModelError` that lists every value which cannot be handed from one side to the other.
    """
    parts = _Partition(model, Positions(model.graph), index_nodes(model.graph))
    for node in model.graph:
        parts.take(node)
    parts.flush()
    if parts.problems:
        raise UnsupportedModelError("lower: onnxruntime and the kernels cannot share", parts.problems)
    return parts.regions


def tail_columns(value: ir.Value) -> tuple[int, ...] | None:
    """The sizes of a row: all that comes after `[batch, sequence]`; `None` where they are not fixed."""
    if value.shape is None or len(value.shape) < 3 or value.dtype != ir.DataType.FLOAT:
        return None
    sizes = tuple(value.shape)[2:]
    fixed = tuple(one for one in sizes if isinstance(one, int))
    return fixed if len(fixed) == len(sizes) else None


@dataclass
class _Partition:
    """Regions so far, and the nodes that wait for a region of onnxruntime."""

    model: ir.Model
    positions: Positions
    index: frozenset[ir.Node]  # each side has its own copy of these
    regions: list[Region] = field(default_factory=list)
    pending: dict[ir.Node, str] = field(default_factory=dict)  # → why there is no kernel
    problems: list[str] = field(default_factory=list)

    def take(self, node: ir.Node) -> None:
        """Assign the next node of the graph."""
        if node in self.index or node.op_type == "Constant":
            return
        region, reason = self._read(node)
        if region is None:
            self.pending[node] = reason
            return
        if any(one is not None and one.producer() in self.pending for one in node.inputs):
            self.flush()
        self.regions.append(region)

    def flush(self) -> None:
        """Make a region of the waiting nodes."""
        if not self.pending:
            return
        nodes, self.pending = self.pending, {}
        inputs, outputs = _crossing(nodes, self.index)
        self.problems += [
            f"{value.name}: {value.type} {value.shape}, no rows [batch, sequence, …] of float32"
            for value in (*inputs, *outputs)
            if tail_columns(value) is None
        ]
        if not self.problems:
            self.regions.append(self._foreign(nodes, inputs, outputs))

    def _read(self, node: ir.Node) -> tuple[Region | None, str]:
        function = self.model.functions.get(node.op_identifier())
        if node.domain != DOMAIN or function is None:
            return None, f"{node.op_type} fits no region"
        try:
            region = read_region(node, function, self.positions)
        except Unreadable as reason:
            return None, str(reason)
        problem = problem_of(region)
        return (region, "") if problem is None else (None, problem)

    def _foreign(
        self, nodes: dict[ir.Node, str], inputs: list[ir.Value], outputs: list[ir.Value]
    ) -> ForeignRegion:
        graph = self.model.graph
        made = {value for node in nodes for value in node.outputs}
        caches = [one for one in graph.outputs if one in made and str(one.name).endswith(UPDATED)]
        part = extract(graph, [*graph.inputs, *inputs], [*outputs, *caches], self.model.functions)
        assert part is not None, "everything that the nodes read is an input"
        first = next(iter(nodes))
        return ForeignRegion(
            site=_site(first),
            model=part,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            caches=tuple(str(one.name).removesuffix(UPDATED) for one in caches),
            reasons=tuple(f"{_site(node)}: {reason}" for node, reason in nodes.items()),
        )


def _crossing(nodes: dict[ir.Node, str], index: frozenset[ir.Node]) -> tuple[list[ir.Value], list[ir.Value]]:
    """Rows that `nodes` read from elsewhere, and rows of theirs that others read."""
    made = {value for node in nodes for value in node.outputs}
    read = dict.fromkeys(value for node in nodes for value in node.inputs if value is not None)
    inputs = [
        value
        for value in read
        if value not in made and (maker := value.producer()) is not None and not _is_copied(maker, index)
    ]
    outputs = [
        value
        for value in made
        if (value.is_graph_output() and not str(value.name).endswith(UPDATED))
        or any(reader not in nodes for reader in value.consumers())
    ]
    return inputs, sorted(outputs, key=lambda one: str(one.name))


def _is_copied(node: ir.Node, index: frozenset[ir.Node]) -> bool:
    return node in index or node.op_type == "Constant"


def _site(node: ir.Node) -> str:
    return node.metadata_props.get("intaglio.site") or node.name or str(node.outputs[0].name)


def row_size(value: ir.Value) -> int:
    """Floats of one row of `value`."""
    return math.prod(tail_columns(value) or ())
