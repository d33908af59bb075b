"""One buffer for q, k and v that come from projections of their own: attention reads them as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.backends.tvm.regions import AttentionRegion, Region


@dataclass(frozen=True)
class Joint:
    """A separate projection's part of the joint buffer."""

    whole: ir.Value  # stands for the buffer: the query projection
    offset: int  # floats
    columns: int  # of the whole


def joints_of(regions: Sequence[Region]) -> dict[ir.Value, Joint]:
    """The places of all projections that were not merged."""
    joints = {}
    for region in regions:
        if not isinstance(region, AttentionRegion) or len(region.projections) == 1:
            continue
        kv = region.kv_heads * region.head_dim
        offsets = (0, region.heads * region.head_dim, region.heads * region.head_dim + kv)
        for value, offset in zip(region.projections, offsets, strict=True):
            joints[value] = Joint(region.projections[0], offset, offsets[-1] + kv)
    return joints
