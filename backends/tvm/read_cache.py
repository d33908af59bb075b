"""Reading how keys and values are stored: what `passes.quantize.StoreCache` spelled out."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from intaglio.backends.tvm.function_values import Unreadable
from intaglio.compiler.ir import producer_of
from intaglio.compiler.ir.functions import DOMAIN

FLOAT = ir.DataType.FLOAT
FORMATS: Mapping[int, str] = {ir.DataType.FLOAT16: "fp16", ir.DataType.BFLOAT16: "bf16"}


def read_stored(value: ir.Value | None) -> tuple[str, ir.Value | None]:
    """How `value`, which goes into a cache, is stored, and what it was before; raises `Unreadable`."""
    node = None if value is None else value.producer()
    if node is not None and node.domain == DOMAIN and node.op_type == "QuantizeActivation":
        return _bytes(node)
    wide = producer_of(value, "Cast")
    narrow = None if wide is None else producer_of(wide.inputs[0], "Cast")
    if wide is None or narrow is None:
        return "fp32", value
    stored = FORMATS.get(narrow.attributes.get_int("to", 0))
    if stored is None or wide.attributes.get_int("to", 0) != FLOAT:
        raise Unreadable("attention has no kernel with keys or values cast to other types")
    return stored, narrow.inputs[0]


def _bytes(node: ir.Node) -> tuple[str, ir.Value | None]:
    (heads,) = node.inputs
    group = node.attributes.get_int("group", 0)
    if heads is None or heads.shape is None or heads.shape[-1] != group:
        raise Unreadable(f"attention has no kernel with keys or values quantised in groups of {group}")
    return "int8", heads
