"""From the canonical IR to what onnxruntime runs fastest."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, RemoveUnusedFunctionsPass, RemoveUnusedOpsetsPass


def lower(model: ir.Model) -> None:
    """Rewrite `model`, in place, for onnxruntime; what it computes stays the same."""
    InlinePass()(model)
    RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]  # onnx-ir leaves its __init__ untyped
    RemoveUnusedOpsetsPass()(model)
