"""The canonical decoder as calls of a handful of functions."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from intaglio.compiler.ir.index_arithmetic import index_nodes
from intaglio.passes.fuse.outline import Region, body_nodes, outline
from intaglio.passes.fuse.regions import PASS, find_regions
from intaglio.passes.fuse.rowwise import loose_nodes, row_regions
from intaglio.passes.result import Applied, Certificate, Declined, PassResult
from intaglio.passes.rewriting import remove_unused, site_of


@dataclass(frozen=True)
class FuseRegions:
    """Nodes of a region → one call of an `intaglio` function with those nodes as its body:

        Embedding        [dequantise] → Gather
        NormLinear       [Slice of the last position] → RMSNormalization → [quantise] → linear
        LinearAdd        [quantise] → linear → Add of a residual
        Linear           [quantise] → linear
        NormGatedLinear  RMSNormalization → [quantise] → gate and up → [Split] → SwiGLU or GeGLU
        GatedLinear      the same without the norm
        CachedAttention  [Split] → [bias] → heads → [norm] → [rotary] → TensorScatter → Attention → joined
        Rowwise          arithmetic and norms on rows `[batch, sequence, columns]`, with one output

    Inputs are in the order that the outputs need them; `CachedAttention` returns the mixed values, then the
    key cache, then the value cache. Up to three projections that are not merged get a copy each of the norm
    before them.

    Exceptions:
    1. Arithmetic on `position` and `input_ids` stays in the main graph.
    2. Every other node that fits no region is declined by name.
    """

    name: str = PASS

    def __call__(self, model: ir.Model) -> PassResult:
        """Outline every region, and certify that no node was lost."""
        _infer_missing_shapes(model)
        before = len(model.graph)
        found = list(find_regions(model))
        regions = [one for one in found if isinstance(one, Region)]
        loose = loose_nodes(model.graph, regions, index_nodes(model.graph))
        regions += row_regions(model.graph, loose)
        applied = [self._outline(model, one) for one in regions]
        remove_unused(model)
        model.graph.sort()
        index = index_nodes(model.graph)
        left = [node for node in model.graph if node.op_identifier() not in _outlined(model)]
        outlined = frozenset[ir.Node]().union(*(one.nodes for one in regions)) - frozenset(left)
        lost = before - len(outlined) - len(left)
        certificate = Certificate("nodes lost or gained", f"all {before} nodes", float(abs(lost)), 0.0)
        detail = f"{before} nodes: {len(outlined)} in {len(regions)} regions, {len(left)} left"
        declined = [one for one in found if isinstance(one, Declined)]
        told = {one.site for one in declined}
        declined += [
            Declined(self.name, site_of(node), f"{node.op_type} fits no region")
            for node in left
            if node not in index and node.op_type != "Constant" and site_of(node) not in told
        ]
        summary = Applied(self.name, "model", detail, certificate)
        return PassResult(model, (*applied, summary) if applied else (), tuple(declined))

    def _outline(self, model: ir.Model, region: Region) -> Applied:
        call = outline(model, region)
        body = len(list(body_nodes(model.functions[call.op_identifier()])))
        expected = sum(node.op_type != "Constant" for node in region.nodes)
        certificate = Certificate(
            "nodes by which the body differs from the region",
            f"{expected} nodes, body {call.overload}",
            float(abs(body - expected)),
            0.0,
        )
        return Applied(self.name, region.site, f"{region.kind} {call.overload}", certificate)


def _infer_missing_shapes(model: ir.Model) -> None:
    """What is a row, and how wide, is told by shapes: passes before this one need not have left them all."""
    if any(value.shape is None or value.type is None for node in model.graph for value in node.outputs):
        ShapeInferencePass()(model)


def _outlined(model: ir.Model) -> frozenset[tuple[str, str, str]]:
    """Functions made by outlining: the others have no overload."""
    return frozenset(one for one in model.functions if one[2])
