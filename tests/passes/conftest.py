"""Graphs as text for tests of passes: text in, rewrite, lines out, and numbers by the reference backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from intaglio.backends.reference.session import ReferenceSession
from intaglio.compiler.frontends.traced import DecoderArchitecture
from intaglio.compiler.frontends.tracing import trace
from intaglio.compiler.ir.functions import (
    dequantize_affine,
    ensure_function,
    geglu,
    quantize_activation,
    swiglu,
)
from intaglio.compiler.ir.invariants import check

torch.set_num_threads(1)
HEADER = '<ir_version: 13, opset_import: ["" : 25, "intaglio" : 1]> '


def parse_graph(text: str, *, header: str = HEADER, **weights: Any) -> ir.Model:
    """A model from onnx's text form; the text need not declare `weights` (arrays, tensors)."""
    tensors = {
        name: one if isinstance(one, ir.TensorProtocol) else ir.tensor(one) for name, one in weights.items()
    }
    model = ir.from_onnx_text(header + text)
    for value in _undefined(model.graph):
        assert value.name in tensors, f"the text uses {value.name}, which nothing defines"
    _give_values(model.graph, tensors)
    for node in model.graph:
        node.name = node.name or node.outputs[0].name
    for function in (dequantize_affine(), quantize_activation(), swiglu(), geglu()):
        if any(node.op_type == function.name for node in model.graph):
            ensure_function(model, function)
    return model


def _undefined(graph: ir.Graph) -> list[ir.Value]:
    known = {*graph.inputs, *graph.initializers.values()}
    used = {value: None for node in graph for value in node.inputs if value is not None}
    return [value for value in used if value.producer() is None and value not in known]


def _give_values(graph: ir.Graph, tensors: dict[str, ir.TensorProtocol]) -> None:
    for value in _undefined(graph):
        tensor = tensors[value.name or ""]
        tensor.name = value.name
        value.const_value, value.shape = tensor, ir.Shape(tensor.shape.numpy())
        value.type = ir.TensorType(tensor.dtype)
        graph.register_initializer(value)


def graph_lines(model: ir.Model) -> list[str]:
    """`y = Op(a, b) name=value`, one line per node, `Constant`s and overloads left out."""
    return [_line(node) for node in model.graph if node.op_type != "Constant"]


def _line(node: ir.Node) -> str:
    inputs = ", ".join("" if one is None else str(one.name) for one in node.inputs)
    outputs = ", ".join(str(one.name) for one in node.outputs)
    domain = f"{node.domain}." if node.domain else ""
    attributes = "".join(f" {key}={_plain(node.attributes[key])}" for key in sorted(node.attributes))
    return f"{outputs} = {domain}{node.op_type}({inputs}){attributes}"


def _plain(attribute: ir.Attr) -> Any:
    return list(attribute.value) if isinstance(attribute.value, tuple) else attribute.value


def run_graph(model: ir.Model, **inputs: Any) -> dict[str, np.ndarray[Any, Any]]:
    """All outputs by the reference backend."""
    return {name: one.numpy() for name, one in ReferenceSession(model).run(inputs).items()}


class TinyDecoder:
    """A tiny llama: traced afresh on demand, and run with or without a cache."""

    CAPACITY = 24

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sizes: DecoderArchitecture = trace(path).architecture
        self.tokens = np.random.default_rng(3).integers(0, self.sizes.vocabulary, (1, 9))

    def traced(self) -> ir.Model:
        return trace(self.path).model

    def whole(self) -> np.ndarray[Any, Any]:
        """Logits of the traced model, `[1, 9, vocabulary]`."""
        return run_graph(self.traced(), input_ids=self.tokens)["logits"]

    def cached(self, model: ir.Model, chunks: tuple[int, ...] = (5, 1, 1, 2)) -> np.ndarray[Any, Any]:
        """Logits of a canonical decoder fed with the tokens in `chunks`, joined along the sequence."""
        check(model)
        session, logits, position = ReferenceSession(model), [], 0
        caches = {one.name: self._empty(one) for one in model.graph.inputs if "cache" in str(one.name)}
        for size in chunks:
            tokens = self.tokens[:, position : position + size]
            outputs = session.run({"input_ids": tokens, "position": np.array([position]), **caches})
            caches = {name: outputs[f"{name}.updated"] for name in caches}
            logits.append(outputs["logits"].numpy())
            position += size
        return np.concatenate(logits, 1)

    def _empty(self, value: ir.Value) -> np.ndarray[Any, Any]:
        assert value.shape is not None
        # What a cache holds beyond its length must not matter.
        return np.full([1, *(int(one) for one in value.shape[1:])], 7.0, np.float32)


@pytest.fixture(scope="session")
def parse() -> Callable[..., ir.Model]:
    return parse_graph


@pytest.fixture(scope="session")
def lines() -> Callable[[ir.Model], list[str]]:
    return graph_lines


@pytest.fixture(scope="session")
def run() -> Callable[..., dict[str, np.ndarray[Any, Any]]]:
    return run_graph


@pytest.fixture(scope="session")
def tiny_decoder(tiny_gguf: Callable[..., Path]) -> Callable[..., TinyDecoder]:
    """`tiny_decoder(quantization="Q4_1", …)`; the options are those of `tiny_gguf`."""
    return lambda **options: TinyDecoder(tiny_gguf(**options))
