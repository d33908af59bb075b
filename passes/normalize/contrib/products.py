"""Products and activations of `com.microsoft`."""

from __future__ import annotations

import onnx_ir as ir

from intaglio.passes.normalize.contrib.writer import NotLowered, Writer
from intaglio.passes.rewriting import rank

ACTIVATIONS = ("Relu", "Tanh", "Sigmoid")  # of FusedGemm, without parameters


def fused_matmul(writer: Writer) -> None:
    """`FusedMatMul(a, b; alpha, transA, transB)` → `[alpha ·] MatMul(aᵀ, bᵀ)`."""
    writer.plain(transBatchA=0, transBatchB=0)
    sides = [writer.required(0), writer.required(1)]
    turned = [bool(writer.integer(name)) for name in ("transA", "transB")]
    axes = [rank(one) for one in sides]
    if any(count is None or count < 2 for count, turn in zip(axes, turned, strict=True) if turn):
        raise NotLowered("FusedMatMul turns a value of unknown rank")
    parts = [_swapped(writer, one) if turn else one for one, turn in zip(sides, turned, strict=True)]
    alpha = writer.real("alpha", 1.0)
    product = writer.op("MatMul", parts)
    writer.finish(product if alpha == 1.0 else writer.op("Mul", [product, writer.number(alpha, sides[0])]))


def _swapped(writer: Writer, value: ir.Value) -> ir.Value:
    count = rank(value) or 0
    order = [*range(count - 2), count - 1, count - 2]
    swapped = writer.op("Transpose", [value], {"perm": order})
    shape = None if value.shape is None else [value.shape[axis] for axis in order]
    swapped.type, swapped.shape = value.type, None if shape is None else ir.Shape(shape)
    return swapped


def fused_gemm(writer: Writer) -> None:
    """`FusedGemm(a, b, c; activation)` → `activation(Gemm(a, b, c))`."""
    activation = writer.node.attributes.get_string("activation", "")
    if activation not in ACTIVATIONS:
        raise NotLowered(f"FusedGemm has activation {activation!r}")
    numbers = {name: writer.real(name, 1.0) for name in ("alpha", "beta")}
    turns = {name: writer.integer(name) for name in ("transA", "transB")}
    gemm = writer.op("Gemm", list(writer.node.inputs), {**numbers, **turns})
    writer.finish(writer.op(activation, [gemm]))


def gelu(writer: Writer) -> None:
    """`Gelu(x)` → `Gelu(x; approximate=none)`."""
    writer.finish(writer.op("Gelu", [writer.required(0)], {"approximate": "none"}))


def bias_gelu(writer: Writer) -> None:
    """`BiasGelu(x, b)` → `Gelu(x + b; approximate=none)`."""
    total = writer.op("Add", [writer.required(0), writer.required(1)])
    writer.finish(writer.op("Gelu", [total], {"approximate": "none"}))


def fast_gelu(writer: Writer) -> None:
    """`FastGelu(x [, b])` → `Gelu(x [+ b]; approximate=tanh)`."""
    x, bias = writer.required(0), writer.input(1)
    total = x if bias is None else writer.op("Add", [x, bias])
    writer.finish(writer.op("Gelu", [total], {"approximate": "tanh"}))


def quick_gelu(writer: Writer) -> None:
    """`QuickGelu(x; alpha)` → `x · sigmoid(alpha · x)`."""
    x, alpha = writer.required(0), writer.real("alpha", 1.702)
    inner = x if alpha == 1.0 else writer.op("Mul", [x, writer.number(alpha, x)])
    writer.finish(writer.op("Mul", [x, writer.op("Sigmoid", [inner])]))
