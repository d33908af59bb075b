"""What keeps regions from having kernels, found before anything is lowered, so that all is listed at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from intaglio.backends.tvm.joints import Joint
from intaglio.backends.tvm.packing import Layout, layout_of
from intaglio.backends.tvm.regions import GatedRegion, LinearRegion, Region, inputs_of
from intaglio.kernels.linear.layout import ROWS, FloatWeight


def problems_of(regions: Sequence[Region], joints: Mapping[ir.Value, Joint]) -> list[str]:
    """`site: reason` for every region that no kernel computes."""
    last_reader = {value: index for index, region in enumerate(regions) for value in inputs_of(region)}
    problems = []
    for index, region in enumerate(regions):
        for linear in _linears(region):
            layout = layout_of(linear.weight, 2 if linear.gated else 1)
            reasons = [_grouping(linear, layout), _separation(linear, layout, joints)]
            if linear.residual is not None and last_reader[linear.residual] != index:
                reasons.append("its residual, which it would overwrite, is read again afterwards")
            problems += [f"{linear.site}: {reason}" for reason in reasons if reason]
    return problems


def _linears(region: Region) -> Iterator[LinearRegion]:
    if isinstance(region, LinearRegion):
        yield region
    elif isinstance(region, GatedRegion):
        yield from (region.gate, region.up)


def _grouping(region: LinearRegion, layout: Layout) -> str | None:
    group = region.activation_group
    if group is None:
        return None
    if isinstance(layout, FloatWeight):
        return "activations are quantised before floating-point weights"
    if layout.columns % group or layout.group % group or group % 8:
        return (
            f"activation group {group} must be a multiple of 8 that divides the weight group {layout.group} "
            f"and the {layout.columns} columns"
        )
    return None


def _separation(region: LinearRegion, layout: Layout, joints: Mapping[ir.Value, Joint]) -> str | None:
    joint = joints.get(region.output)
    if joint is None or not (layout.rows % ROWS or joint.offset % ROWS):
        return None
    return f"separate projections need multiples of {ROWS} rows, not {layout.rows}"
