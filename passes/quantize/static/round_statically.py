"""8-bit arithmetic with fixed grids: `QuantizeLinear` and `DequantizeLinear` around layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from intaglio.compiler.ir.builder import GraphBuilder
from intaglio.passes.quantize.static.gate import multiply_by_gate
from intaglio.passes.quantize.static.grid import Grid, grid_of, only_hard_swish_reads
from intaglio.passes.quantize.static.places import ABSORBED, Places, needs, places_of
from intaglio.passes.quantize.static.round_kernel import round_kernel
from intaglio.passes.quantize.static.value_range import ValueRange
from intaglio.passes.result import Applied, Declined, PassResult
from intaglio.passes.rewriting import made_by, remove_unused, sizes


@dataclass(frozen=True)
class RoundStatically:
    """`Conv(x, W, b)` → `Conv(D(Q(x)), D(W₈), D(b₃₂))` and `D(Q(·))` of its result; `MatMul(x, Wᵀ)` →
    `MatMul(D(Q(x)), Wᵀ)`; for the layers `sites`.

    Q and D are `QuantizeLinear` and `DequantizeLinear`: unsigned activations with one scale and zero point
    per tensor from `ranges`, signed weights with one scale per output channel, biases on the grid of the
    products. What lies between such layers and has a kernel for bytes is rounded too (`places.py`).
    Linear layers keep their weights: `round_weights` rounds those.

    Exceptions:
    1. A range that is needed is not known, or not finite: the layers that need it are declined.
    2. A `Relu` or `Clip` right behind a convolution is no place of its own: the grid cuts off what it does.
    3. A value is a multiple of another plus a number (`grid.py`): that one is rounded, to the same codes, so
       that multiplying and adding cost nothing.
    4. `HardSwish` behind a convolution becomes a product of bytes (`gate.py`).
    """

    sites: frozenset[str]
    ranges: Mapping[str, ValueRange] = field(default_factory=dict)  # by the name of the value
    name: str = "round_statically"

    def __call__(self, model: ir.Model) -> PassResult:
        """Round all of `sites` that have the ranges they need."""
        places, declined = self._known_places(model)
        grids = {value: grid_of(value, self.ranges[value.name or ""]) for value in places.values}
        inputs = {layer: grids[layer.input] for layer in places.layers}
        rounded = {value: _round(model.graph, value, grid) for value, grid in grids.items()}
        for value, (codes, dequantized) in rounded.items():
            if only_hard_swish_reads(dequantized):
                multiply_by_gate(model.graph, dequantized, codes, grids[value])
        applied = []
        for layer, grid in inputs.items():
            certificate = (
                round_kernel(model.graph, layer, grid.scale) if layer.kind == "convolution" else None
            )
            detail = f"{layer.kind} of bytes, its input in steps of {grid.scale:.3g}"
            applied.append(Applied(self.name, layer.site, detail, certificate))
        remove_unused(model)
        return PassResult(model, tuple(applied), declined)

    def _known_places(self, model: ir.Model) -> tuple[Places, tuple[Declined, ...]]:
        """The places of those layers whose every range is known, and the layers left out."""
        sites, declined = set(self.sites), list[Declined]()
        while True:
            places = places_of(model, sites)
            lacking = {one for one in places.values if not self._is_known(one)}
            left_out = [one.site for one in places.layers if needs(one, places) & lacking]
            if not left_out:
                return places, tuple(declined)
            reason = "no range is known of its input or output, or it is not finite"
            declined += [Declined(self.name, site, reason) for site in left_out]
            sites -= set(left_out)

    def _is_known(self, value: ir.Value) -> bool:
        covered = self.ranges.get(value.name or "")
        return covered is not None and covered.is_finite


def _round(graph: ir.Graph, value: ir.Value, grid: Grid) -> tuple[ir.Value, ir.Value]:
    """Let all that read `value` read it rounded; (its codes, what is read).

    A graph output stays as computed, unless bytes make it: then only its bytes are ever computed.
    """
    readers = [(use.node, use.idx) for use in value.uses()]
    nodes = {node for node, _ in readers}
    builder = GraphBuilder.extend(graph, before=next((node for node in graph if node in nodes), None))
    given_out = value.is_graph_output() and _is_made_of_bytes(value)
    codes = builder.node(
        "QuantizeLinear",
        [grid.base, _number(builder, grid.base_scale), _number(builder, grid.base_zero_point)],
        name=f"{value.name}.codes",
        dtype=ir.DataType.UINT8,
        shape=sizes(value),
    )
    rounded = builder.node(
        "DequantizeLinear",
        [codes, _number(builder, grid.scale), _number(builder, grid.zero_point)],
        name=f"{value.name}.rounded",
        dtype=ir.DataType.FLOAT,
        shape=sizes(value),
    )
    for node, place in readers:
        node.replace_input_with(place, rounded)
    if given_out:
        _give_out(graph, value, rounded)
    return codes, rounded


def _is_made_of_bytes(value: ir.Value) -> bool:
    node = value.producer()
    if node is None:
        return False
    if node.op_type in ABSORBED and node.inputs[0] is not None and _is_made_of_bytes(node.inputs[0]):
        return True
    return any(made_by(one, "DequantizeLinear") is not None for one in node.inputs)


def _give_out(graph: ir.Graph, value: ir.Value, rounded: ir.Value) -> None:
    name, value.name = value.name, f"{value.name}.exact"
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = rounded
    rounded.name = name


def _number(builder: GraphBuilder, number: np.generic) -> ir.Value:
    return builder.constant(np.array(number))
