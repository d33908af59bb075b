"""Small questions that passes and lowerings ask of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.compiler.ir.functions import DOMAIN

_WEIGHT_RANK = 2


@dataclass(frozen=True)
class DequantizedWeight:
    """A weight matrix `[N, K]` and the chain that gives its float32 values.

    `codes` is the stored matrix (for `kind == "float"`, the float weight itself). `scale`, `zero_point` and
    `minimum` are the stored blocks `[N, K / block_size]`, before any `Cast`; `block_size` runs along K
    and is 0 for float weights. `transposed`: the value asked about is `[K, N]`.
    """

    kind: Literal["float", "symmetric", "affine"]
    codes: ir.Value
    shape: tuple[int, int]
    block_size: int = 0
    scale: ir.Value | None = None
    zero_point: ir.Value | None = None
    minimum: ir.Value | None = None
    transposed: bool = False


def producer_of(value: ir.Value | None, op_type: str, domain: str = "") -> ir.Node | None:
    """The node that produces `value`, if it is such an op."""
    node = None if value is None else value.producer()
    matches = node is not None and node.op_type == op_type and node.domain == domain
    return node if matches else None


def sole_consumer(value: ir.Value) -> ir.Node | None:
    """The only node that uses `value`; none where it has several uses or is a graph output."""
    uses = tuple(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    return uses[0].node


def attribute_int(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or the operator's default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def constant_of(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of an initialiser or `Constant` node; none for anything computed or fed."""
    if value is None or value.is_initializer():
        return None if value is None else value.const_value
    node = producer_of(value, "Constant")
    return None if node is None else _constant_tensor(node)


def is_dequantized_weight(value: ir.Value | None, *, inputs: bool = False) -> DequantizedWeight | None:
    """Describe `value` if it is a stored weight matrix, dequantised in one of the canonical ways.

    The ways (docs/architecture.md): a float initialiser, cast to float32 or not; blocked `DequantizeLinear`
    along axis 1; `intaglio.DequantizeAffine`; each optionally through `Transpose(perm=[1, 0])`.
    With `inputs`, the stored matrices may also be inputs, as they are in a function body.
    """
    transpose = producer_of(value, "Transpose")
    if transpose is not None:
        return _transposed(transpose, inputs)
    if (node := producer_of(value, "DequantizeLinear")) is not None:
        return _symmetric(node, inputs)
    if (node := producer_of(value, "DequantizeAffine", DOMAIN)) is not None:
        return _affine(node, inputs)
    stored = _stored(value, inputs)
    shape = _matrix_shape(stored)
    if stored is None or shape is None or stored.dtype is None or not stored.dtype.is_floating_point():
        return None
    return DequantizedWeight("float", stored, shape)


def dequantize(
    weight: DequantizedWeight, values: Mapping[ir.Value, NDArray[np.generic]] | None = None
) -> NDArray[np.float32]:
    """The weight's values, float32 `[N, K]` whether it is used transposed or not.

    `values` gives the arrays of weights that are inputs; initialisers are read from the graph.
    """
    codes = _array(weight.codes, values)
    if weight.kind == "float":
        return codes
    rows = codes.reshape(codes.shape[0], -1, weight.block_size)
    if weight.zero_point is not None:
        rows = rows - _blocks(weight.zero_point, values)
    assert weight.scale is not None, "a quantised weight has scales"
    rows = rows * _blocks(weight.scale, values)
    if weight.minimum is not None:
        rows = rows + _blocks(weight.minimum, values)
    return rows.reshape(codes.shape)


def _transposed(node: ir.Node, inputs: bool) -> DequantizedWeight | None:
    permutation = node.attributes.get("perm")
    below = is_dequantized_weight(node.inputs[0], inputs=inputs)
    swaps = permutation is None or tuple(permutation.as_ints()) == (1, 0)
    if below is None or below.transposed or not swaps:
        return None
    return replace(below, transposed=True)


def _symmetric(node: ir.Node, inputs: bool) -> DequantizedWeight | None:
    codes = _leaf(node.inputs[0], inputs)
    scale = _stored(node.inputs[1], inputs)
    has_zero_point = len(node.inputs) > 2 and node.inputs[2] is not None
    zero_point = _leaf(node.inputs[2], inputs) if has_zero_point else None
    shape = _matrix_shape(codes)
    block_size = _block_size(node)
    along_rows = attribute_int(node, "axis", 1) in (1, -1) and block_size > 0
    if codes is None or scale is None or shape is None or not along_rows:
        return None
    if has_zero_point and zero_point is None:
        return None
    return DequantizedWeight("symmetric", codes, shape, block_size, scale, zero_point)


def _affine(node: ir.Node, inputs: bool) -> DequantizedWeight | None:
    codes, scale, minimum = (_stored(one, inputs) for one in node.inputs)
    shape, block_size = _matrix_shape(codes), _block_size(node)
    if codes is None or scale is None or minimum is None or shape is None or not block_size:
        return None
    return DequantizedWeight("affine", codes, shape, block_size, scale, None, minimum)


def _block_size(node: ir.Node) -> int:
    """The size of the node's blocks; 0 where it has none, or takes it from the function around it."""
    attribute = node.attributes.get("block_size")
    return 0 if attribute is None or attribute.is_ref() else attribute.as_int()


def _stored(value: ir.Value | None, inputs: bool) -> ir.Value | None:
    """The stored value behind at most one `Cast` to float32."""
    cast = producer_of(value, "Cast")
    if cast is None:
        return _leaf(value, inputs)
    return _leaf(cast.inputs[0], inputs) if cast.attributes["to"].as_int() == ir.DataType.FLOAT else None


def _leaf(value: ir.Value | None, inputs: bool) -> ir.Value | None:
    if value is None or value.producer() is not None:
        return None
    return value if inputs or value.is_initializer() else None


def _matrix_shape(value: ir.Value | None) -> tuple[int, int] | None:
    if value is None or value.shape is None or len(value.shape) != _WEIGHT_RANK:
        return None
    rows, columns = value.shape
    return (rows, columns) if isinstance(rows, int) and isinstance(columns, int) else None


def _blocks(value: ir.Value, values: Mapping[ir.Value, NDArray[np.generic]] | None) -> NDArray[np.float32]:
    return _array(value, values)[..., np.newaxis]


def _array(value: ir.Value, values: Mapping[ir.Value, NDArray[np.generic]] | None) -> NDArray[np.float32]:
    array: NDArray[np.generic] | None = None if values is None else values.get(value)
    if array is None:
        assert value.const_value is not None, f"{value.name} is not an initialiser and has no given value"
        array = value.const_value.numpy()
    return array.astype(np.float32)


def _constant_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    (attribute,) = node.attributes.values()
    if attribute.is_ref():
        return None
    if attribute.name == "value":
        return attribute.as_tensor()
    dtype = np.int64 if attribute.name.startswith("value_int") else np.float32
    return ir.tensor(np.array(attribute.value, dtype))
