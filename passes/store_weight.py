"""Writing a weight into a graph, in the canonical form that `compiler.ir.match` reads."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from intaglio.compiler.ir.functions import DOMAIN, dequantize_affine, ensure_function
from intaglio.passes.rewriting import insert

FLOAT = ir.DataType.FLOAT


def store_weight(
    model: ir.Model, before: ir.Node, name: str, parts: Mapping[str, ir.TensorProtocol], block: int
) -> ir.Value:
    """Add the initialisers `parts` and, ahead of `before`, what makes a float32 weight `[N, K]` of them.

    `parts` is `plain`, or `codes` and `scale` with perhaps `zero_point` or `minimum`; `block` weights share a
    scale. Initialisers are called `{name}.{part}`, which must be new.
    """
    values = {part: _initializer(model.graph, f"{name}.{part}", one) for part, one in parts.items()}
    if "plain" in values:
        return _widened(before, values["plain"], name)
    shape = values["codes"].shape
    if "minimum" in values:
        ensure_function(model, dequantize_affine())
        inputs = [values["codes"], values["scale"], values["minimum"]]
        node = insert(before, "DequantizeAffine", inputs, {"block_size": block}, domain=DOMAIN, name=name)
    else:
        scale = _widened(before, values["scale"], f"{name}.scale.float32")
        inputs = [values["codes"], scale, *([values["zero_point"]] if "zero_point" in values else [])]
        node = insert(before, "DequantizeLinear", inputs, {"axis": 1, "block_size": block}, name=name)
    return _typed(node.outputs[0], shape)


def _initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    tensor.name = name
    shape = ir.Shape(tensor.shape.numpy())
    value = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _widened(before: ir.Node, value: ir.Value, name: str) -> ir.Value:
    if value.dtype == FLOAT:
        return value
    cast = insert(before, "Cast", [value], {"to": int(FLOAT)}, name=name)
    return _typed(cast.outputs[0], value.shape)


def _typed(value: ir.Value, shape: ir.Shape | None) -> ir.Value:
    value.type, value.shape = ir.TensorType(FLOAT), shape
    return value
