"""From the canonical IR to what onnxruntime runs fastest."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import (
    InlinePass,
    RemoveUnusedFunctionsPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)

from intaglio.backends.onnxruntime.byte_products import lower_byte_products
from intaglio.backends.onnxruntime.float_weights import store_floats
from intaglio.backends.onnxruntime.lookups import lower_lookups
from intaglio.backends.onnxruntime.matmul_nbits import CONTRIB, lower_products
from intaglio.compiler.ir import DOMAIN


def lower(model: ir.Model) -> None:
    """Rewrite `model`, in place, for onnxruntime.

    What it computes stays the same up to the order of sums. `QuantizeActivation` stays a function where
    no operator of onnxruntime's does it, so that an export can find it; onnxruntime inlines it.
    """
    model.opset_imports.setdefault(CONTRIB, 1)
    lower_byte_products(model)
    lower_products(model)
    lower_lookups(model)
    store_floats(model)
    RemoveUnusedNodesPass()(model)
    InlinePass(criteria=lambda function: not is_rounding(function))(model)
    RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]  # onnx-ir leaves its __init__ untyped
    RemoveUnusedOpsetsPass()(model)


def is_rounding(one: ir.Function | ir.Node) -> bool:
    """Whether `one` is the function that rounds activations, or a call of it."""
    name = one.name if isinstance(one, ir.Function) else one.op_type
    return one.domain == DOMAIN and name == "QuantizeActivation"
