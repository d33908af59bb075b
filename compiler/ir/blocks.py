"""Whether the blocks of a dequantisation fit together: codes, scales, zero points, minima."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from intaglio.compiler.ir.functions import DOMAIN
from intaglio.compiler.ir.match import attribute_int


def is_blocked(node: ir.Node) -> bool:
    """Whether `node` dequantises in blocks of a known size."""
    attribute = node.attributes.get("block_size")
    if attribute is not None and attribute.is_ref():
        return False
    if node.op_identifier() == (DOMAIN, "DequantizeAffine", ""):
        return True
    return node.op_type == "DequantizeLinear" and attribute is not None and attribute.as_int() > 0


def block_problems(node: ir.Node) -> Iterator[str]:
    """Where the shapes of scales, zero points or minima do not fit those of the codes."""
    codes, *blocks = node.inputs
    size = attribute_int(node, "block_size", 0)
    if codes is None or (shape := _static_shape(codes)) is None:
        return
    axis = attribute_int(node, "axis", 1) % len(shape)
    if size <= 0 or shape[axis] % size:
        yield f"cuts {shape[axis]} columns into blocks of {size}"
        return
    expected = (*shape[:axis], shape[axis] // size, *shape[axis + 1 :])
    for value in filter(None, blocks):
        found = _static_shape(value)
        if found is not None and found != expected:
            yield f"needs blocks {list(expected)}, {value.name!r} is {list(found)}"


def _static_shape(value: ir.Value) -> tuple[int, ...] | None:
    """The sizes of `value`, seen through a `Cast`, which keeps them."""
    producer = value.producer()
    if value.shape is None and producer is not None and producer.op_type == "Cast":
        return None if producer.inputs[0] is None else _static_shape(producer.inputs[0])
    if value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(one) for one in value.shape.numpy())
