"""Per-token arithmetic between the regions with weights: groups that one row program each computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from intaglio.compiler.ir.functions import DOMAIN
from intaglio.passes.fuse.outline import Region
from intaglio.passes.rewriting import constant, is_op, site_of

ARITHMETIC = (
    *("Add", "Sub", "Mul", "Div", "Max", "Min", "Neg", "Abs", "Exp", "Log", "Tanh", "Sigmoid", "Erf", "Sqrt"),
    *("Reciprocal", "Relu", "Gelu", "Swish", "Pow", "Clip", "Identity", "Cast"),
    *("RMSNormalization", "LayerNormalization"),
)
OPERANDS = 20  # of a row program: rows, vectors and scratch
RANK = 3  # [batch, sequence, columns]


def row_regions(graph: ir.Graph, loose: frozenset[ir.Node]) -> Iterator[Region]:
    """Regions of the `loose` nodes that are arithmetic on rows `[batch, sequence, columns]`.

    A node joins the group of its readers if they are all in one group and it is as wide as they are: every
    group has one output. `Split` and `Slice` along the last axis are views: each reader's region has a copy.
    """
    groups = _Groups(frozenset(node for node in loose if columns_of(node) is not None))
    for node in reversed(list(graph)):
        if node in groups.able:
            groups.place(node)
    for root, nodes in groups.nodes.items():
        views = {view for node in nodes for view in _views(node.inputs)}
        yield Region("Rowwise", site_of(root), frozenset([*nodes, *views]), (root.outputs[0],))


def columns_of(node: ir.Node) -> int | None:
    """The width of the rows that `node` computes, if it is arithmetic that a row program may hold."""
    gate = node.domain == DOMAIN and node.op_type in ("SwiGLU", "GeGLU")
    if not gate and (node.domain or node.op_type not in ARITHMETIC):
        return None
    output = node.outputs[0]
    if output.dtype != ir.DataType.FLOAT or output.shape is None or len(output.shape) != RANK:
        return None
    width = output.shape[-1]
    fits = all(_is_row_operand(one, width) for one in node.inputs)
    return width if isinstance(width, int) and fits else None


def is_view(node: ir.Node | None) -> bool:
    """Whether `node` takes columns out of rows."""
    if node is None or node.domain or node.op_type not in ("Split", "Slice"):
        return False
    source = node.inputs[0]
    if source is None or source.shape is None or len(source.shape) != RANK:
        return False
    if node.op_type == "Split":
        return node.attributes.get_int("axis", 0) in (-1, RANK - 1)
    axes = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    steps = constant(node.inputs[4]) if len(node.inputs) > 4 else None
    plain = steps is None or steps.reshape(-1).tolist() == [1]
    return plain and axes is not None and axes.reshape(-1).tolist() in ([-1], [RANK - 1])


def _is_row_operand(value: ir.Value | None, width: object) -> bool:
    """Rows of this width or of one column, a vector of it, or a number."""
    if value is None or value.shape is None:
        return value is None
    sizes = list(value.shape)
    if is_stored(value):
        return all(one == 1 for one in sizes[:-1]) and (not sizes or sizes[-1] in (1, width))
    return len(sizes) == RANK and sizes[-1] in (1, width)


def is_stored(value: ir.Value | None) -> bool:
    """Whether `value` is a constant or an initialiser, widened or not."""
    node = None if value is None else value.producer()
    source = node.inputs[0] if node is not None and _is_stored_cast(node) else value
    return source is not None and (source.is_initializer() or constant(source) is not None)


def _views(values: Iterable[ir.Value | None]) -> Iterator[ir.Node]:
    for value in values:
        node = None if value is None else value.producer()
        if node is not None and (is_view(node) or is_op(node, "Constant") or _is_stored_cast(node)):
            yield node


def _is_stored_cast(node: ir.Node) -> bool:
    """Whether `node` widens a stored vector."""
    return is_op(node, "Cast") and node.inputs[0] is not None and node.inputs[0].is_initializer()


@dataclass
class _Groups:
    """Groups so far: root → nodes, and the group that each node is in."""

    able: frozenset[ir.Node]
    nodes: dict[ir.Node, set[ir.Node]] = field(default_factory=dict)
    roots: dict[ir.Node, ir.Node] = field(default_factory=dict)

    def place(self, node: ir.Node) -> None:
        root = self._root_for(node)
        self.roots[node] = root
        self.nodes.setdefault(root, set()).add(node)

    def _root_for(self, node: ir.Node) -> ir.Node:
        """The group that `node` may join, or itself."""
        value = node.outputs[0]
        found = {self.roots.get(one) for one in value.consumers()}
        if value.is_graph_output() or len(found) != 1:
            return node
        (root,) = found
        if root is None or columns_of(root) != columns_of(node):
            return node
        return root if len(_operands({*self.nodes[root], node})) <= OPERANDS else node


def _operands(nodes: set[ir.Node]) -> set[ir.Value]:
    """Values that a group reads, and one for each norm's scratch."""
    made = {value for node in nodes for value in node.outputs}
    read = {value for node in nodes for value in node.inputs if value is not None and value not in made}
    norms = {node.outputs[0] for node in nodes if node.op_type.endswith("Normalization")}
    return read | norms


def loose_nodes(graph: ir.Graph, regions: Iterable[Region], index: frozenset[ir.Node]) -> frozenset[ir.Node]:
    """Nodes whose values are wanted by a region, an output or each other, and that no region makes."""
    listed = list(regions)
    made: Mapping[ir.Value, Region] = {value: one for one in listed for value in one.outputs}
    pending = [*graph.outputs, *(value for one in listed for value in _read_by(one))]
    found: set[ir.Node] = set()
    while pending:
        value = pending.pop()
        node = value.producer()
        if node is None or value in made or node in index or node in found or is_op(node, "Constant"):
            continue
        found.add(node)
        pending += [one for one in node.inputs if one is not None]
    return frozenset(found)


def _read_by(region: Region) -> Iterator[ir.Value]:
    for node in region.nodes:
        for value in node.inputs:
            if value is not None and value.producer() not in region.nodes:
                yield value
