"""Linear layers of 16-bit graphs in float32, where their weights are to be rounded."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.passes.linears import Linear
from intaglio.passes.quantize.sites import linears_of
from intaglio.passes.result import Applied, PassResult
from intaglio.passes.rewriting import insert, take_over

WIDE = ir.DataType.FLOAT
NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class WidenLinears:
    """`MatMul(x, Transpose(W))` in 16 bits → `Cast(MatMul(Cast(x), Transpose(Cast(W))))`, per site.

    The product is rounded to 16 bits once, at its end. Rounded weights dequantise to float32, so that this
    comes before rounding them.
    """

    sites: Collection[str] = ()
    name: str = "widen_linears"

    def __call__(self, model: ir.Model) -> PassResult:
        """Widen those of the named layers that are narrow; raises `OptionError` where a name is no site."""
        applied = []
        for linear in linears_of(model, self.sites, self.name):
            dtype = linear.output.dtype or linear.weight.value.dtype
            if dtype in NARROW:
                _widen(linear, dtype)
                applied.append(Applied(self.name, linear.site, "multiplies in float32, rounds its result"))
        return PassResult(model, tuple(applied))


def _widen(linear: Linear, narrow: ir.DataType) -> None:
    _widen_input(linear.matmul, f"{linear.site}.input")
    if linear.weight.value.dtype in NARROW:  # a weight that two layers share is widened once
        _widen_input(linear.transpose, f"{linear.site}.weight")
    _narrow_again(linear, narrow)


def _widen_input(node: ir.Node, name: str) -> None:
    """Let `node` read its first input in float32, and give float32."""
    value = node.inputs[0]
    assert value is not None
    cast = insert(node, "Cast", [value], {"to": int(WIDE)}, name=f"{name}.float32")
    (wide,) = cast.outputs
    wide.type, wide.shape = ir.TensorType(WIDE), value.shape
    node.replace_input_with(0, wide)
    node.outputs[0].type = ir.TensorType(WIDE)


def _narrow_again(linear: Linear, narrow: ir.DataType) -> None:
    product = linear.matmul.outputs[0]
    graph = linear.matmul.graph
    assert graph is not None
    cast = ir.node("Cast", [product], {"to": int(narrow)}, name=f"{linear.site}.narrow")
    graph.insert_after(linear.matmul, cast)
    (result,) = cast.outputs
    result.type, result.shape = ir.TensorType(narrow), product.shape
    take_over(product, result)
    cast.replace_input_with(0, product)
