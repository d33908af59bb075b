"""A convolution's weights in 8 bits, its bias in 32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.compiler.ir.builder import GraphBuilder
from intaglio.passes.quantize.static.fold_channels import LARGEST, weight_of
from intaglio.passes.quantize.static.layers import Layer
from intaglio.passes.result import Certificate
from intaglio.passes.rewriting import constant, input_at

LARGEST_CODE = 127
LARGEST_SUM = 2**31 - 128  # the largest float32 below 2³¹


def round_kernel(graph: ir.Graph, layer: Layer, input_scale: np.float32) -> Certificate:
    """Let the convolution `layer` read `D(W₈; scale per output channel)` and `D(b₃₂; input scale · that)`.

    The certificate tells how far the weights moved.
    """
    node, weight = layer.node, weight_of(layer.node)
    assert weight is not None, "a layer has constant weights"
    scale = scales_of(weight)
    steps = scale.reshape(-1, *[1] * (weight.ndim - 1))
    codes = np.clip(np.rint(weight / steps), -LARGEST_CODE, LARGEST_CODE).astype(np.int8)
    builder = GraphBuilder.extend(graph, before=node)
    node.replace_input_with(1, _stored(builder, f"{layer.site}.weight", codes, scale))
    bias = constant(input_at(node, 2), LARGEST)
    if bias is not None:
        unit = np.maximum(scale * input_scale, np.finfo(np.float32).tiny)
        sums = np.clip(np.rint(bias / unit.astype(np.float64)), -LARGEST_SUM, LARGEST_SUM).astype(np.int32)
        node.replace_input_with(2, _stored(builder, f"{layer.site}.bias", sums, unit))
    error = np.linalg.norm(codes * steps - weight) / max(float(np.linalg.norm(weight)), 1e-30)
    probe = f"all {'×'.join(map(str, weight.shape))} weights"
    return Certificate("relative Frobenius error of the weight", probe, float(error), float("inf"))


def scales_of(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """One step per output channel (axis 0), such that its largest weight is code 127."""
    largest = np.abs(weight.reshape(len(weight), -1)).max(1)
    return np.where(largest == 0, np.float32(1), largest / np.float32(LARGEST_CODE)).astype(np.float32)


def _stored(
    builder: GraphBuilder, name: str, codes: NDArray[np.integer], scale: NDArray[np.float32]
) -> ir.Value:
    inputs = [builder.initializer(f"{name}.codes", codes), builder.initializer(f"{name}.scale", scale)]
    inputs.append(builder.initializer(f"{name}.zero_point", np.zeros(len(scale), codes.dtype)))
    attributes, shape = {"axis": 0}, codes.shape
    return builder.node(
        "DequantizeLinear", inputs, attributes, name=name, dtype=ir.DataType.FLOAT, shape=shape
    )
