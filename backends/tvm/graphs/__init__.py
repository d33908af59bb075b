"""Whole graphs of fixed shapes as stage tables: what has a kernel runs in it, the rest in onnxruntime."""

from intaglio.backends.tvm.graphs.calls import CallKey, key_of
from intaglio.backends.tvm.graphs.lower import LoweredGraph, lower_graph
from intaglio.backends.tvm.graphs.program import GraphProgram, GraphTable, Port, RegionCall

__all__ = [
    "CallKey",
    "GraphProgram",
    "GraphTable",
    "LoweredGraph",
    "Port",
    "RegionCall",
    "key_of",
    "lower_graph",
]
