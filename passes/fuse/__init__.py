"""Outlining the regions that one kernel each computes into ONNX functions."""

from __future__ import annotations

import onnx_ir as ir

from intaglio.passes.fuse.fuse_regions import FuseRegions
from intaglio.passes.fuse.outline import Region, outline
from intaglio.passes.result import PassResult

__all__ = ["FuseRegions", "Region", "fuse", "outline"]


def fuse(model: ir.Model) -> PassResult:
    """Turn the main graph of a canonical decoder into calls of region functions."""
    return FuseRegions()(model)
