"""What keeps a region from having a kernel, found before anything is lowered."""

from __future__ import annotations

from intaglio.backends.tvm.packing import Layout, layout_of
from intaglio.backends.tvm.program import POINTERS, ROW
from intaglio.backends.tvm.regions import AttentionRegion, LinearRegion, Region, RowRegion, linears_of
from intaglio.kernels.linear.layout import FloatWeight

LARGEST_HEAD = 256
COMPONENTS = 2  # a head has a multiple of it
MOST_POINTERS = ROW - POINTERS  # of a stage


def problem_of(region: Region) -> str | None:
    """Why no kernel computes `region`; `None` where one does."""
    reasons = [f"{one.site}: {reason}" for one in linears_of(region) if (reason := _grouping(one))]
    if isinstance(region, AttentionRegion):
        reasons += _heads(region)
    if isinstance(region, RowRegion):
        pointers = len(region.operands) + len(region.vectors) + region.norms + 1
        reasons += [f"a row program with {pointers} pointers"] if pointers > MOST_POINTERS else []
    return "; ".join(reasons) or None


def _heads(region: AttentionRegion) -> list[str]:
    size, rotation = region.head_dim, region.rotation
    problems = []
    if size % COMPONENTS or size > LARGEST_HEAD:
        problems.append(f"heads of {size} components; known are even numbers up to {LARGEST_HEAD}")
    if rotation is not None and (rotation.components % 2 or rotation.components > size):
        problems.append(f"a rotation of {rotation.components} components")
    return problems


def _grouping(region: LinearRegion) -> str | None:
    layout: Layout = layout_of(region.weight, 2 if region.gate else 1)
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
