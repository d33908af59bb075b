"""One buffer for q, k and v that come from projections of their own: attention reads them as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.backends.tvm.regions import AttentionRegion, LinearRegion, Region, inputs_of
from intaglio.kernels.linear.layout import ROWS


@dataclass(frozen=True)
class Joint:
    """A separate projection's part of the joint buffer."""

    whole: ir.Value  # stands for the buffer: the query projection
    offset: int  # floats
    columns: int  # of the whole


def joints_of(regions: Sequence[Region]) -> dict[ir.Value, Joint]:
    """The places of projections that can be computed right where attention reads them.

    That takes linear layers of whole blocks of rows, which nobody else reads.
    """
    linears = {one.output: one for one in regions if isinstance(one, LinearRegion) and one.residual is None}
    readers = [value for region in regions for value in inputs_of(region)]
    joints: dict[ir.Value, Joint] = {}
    for region in regions:
        if not isinstance(region, AttentionRegion) or len(region.projections) == 1:
            continue
        parts = parts_of(region)
        if any(one.offset for one in region.projections) or len(parts) != 3:
            continue
        made = [linears.get(value) for value in parts]
        aligned = all(one is not None and one.weight.shape[0] % ROWS == 0 for one in made)
        if aligned and all(readers.count(value) == 1 for value in parts):
            joints |= parts
    return joints


def parts_of(region: AttentionRegion) -> dict[ir.Value, Joint]:
    """The separate projections of `region`, and their places in the joint buffer."""
    kv = region.kv_heads * region.head_dim
    offsets = (0, region.heads * region.head_dim, region.heads * region.head_dim + kv)
    whole, columns = region.projections[0].value, offsets[-1] + kv
    return {
        value: Joint(whole, offset, columns)
        for value, offset in zip((one.value for one in region.projections), offsets, strict=True)
    }
