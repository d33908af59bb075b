"""Helpers over onnx-ir: builder, canonical functions, invariants, structural hash, text form, matching."""

from intaglio.compiler.ir.builder import GraphBuilder
from intaglio.compiler.ir.dump import Dump
from intaglio.compiler.ir.functions import (
    DOMAIN,
    OPSET,
    dequantize_affine,
    ensure_function,
    geglu,
    quantize_activation,
    swiglu,
)
from intaglio.compiler.ir.hash import structural_hash
from intaglio.compiler.ir.invariants import GRAPH_INVARIANTS, INVARIANTS, Invariant, check
from intaglio.compiler.ir.match import (
    DequantizedWeight,
    attribute_int,
    constant_of,
    dequantize,
    is_dequantized_weight,
    producer_of,
    sole_consumer,
)
from intaglio.compiler.ir.rules import ATTENTION_KEPT, OPSET_KEPT, QUANTIZATION_KEPT
from intaglio.compiler.ir.text import function_to_text, graph_to_text, to_text
from intaglio.compiler.ir.view import to_networkx

__all__ = [
    "ATTENTION_KEPT",
    "DOMAIN",
    "GRAPH_INVARIANTS",
    "INVARIANTS",
    "OPSET",
    "OPSET_KEPT",
    "QUANTIZATION_KEPT",
    "DequantizedWeight",
    "Dump",
    "GraphBuilder",
    "Invariant",
    "attribute_int",
    "check",
    "constant_of",
    "dequantize",
    "dequantize_affine",
    "ensure_function",
    "function_to_text",
    "geglu",
    "graph_to_text",
    "is_dequantized_weight",
    "producer_of",
    "quantize_activation",
    "sole_consumer",
    "structural_hash",
    "swiglu",
    "to_networkx",
    "to_text",
]
