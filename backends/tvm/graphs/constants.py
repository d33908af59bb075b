"""Values that are known when a graph is compiled: weights, vectors, numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.backends.tvm.graphs.builder import Shared
from intaglio.backends.tvm.graphs.nodes import made_by
from intaglio.backends.tvm.graphs.views import View, padded, row_major

Array = NDArray[Any]


def is_stored(value: ir.Value | None) -> bool:
    """Whether `value` is an initialiser or a constant, maybe transposed."""
    if value is None or value.is_graph_input():
        return False
    if (node := made_by(value, "Transpose")) is not None:
        return is_stored(node.inputs[0])
    return ir.convenience.get_const_tensor(value) is not None


def stored_shape(value: ir.Value) -> tuple[int, ...]:
    """The shape of a stored value; nothing is read."""
    if (node := made_by(value, "Transpose")) is not None and node.inputs[0] is not None:
        shape = stored_shape(node.inputs[0])
        return tuple(shape[axis] for axis in _order(node, len(shape)))
    tensor = ir.convenience.get_const_tensor(value)
    assert tensor is not None, f"{value.name} is not stored"
    return tuple(int(one) for one in tensor.shape.numpy())


def array_of(value: ir.Value) -> Array:
    """The array behind a stored value."""
    if (node := made_by(value, "Transpose")) is not None and node.inputs[0] is not None:
        array = array_of(node.inputs[0])
        return array.transpose(_order(node, array.ndim))
    tensor = ir.convenience.get_const_tensor(value)
    assert tensor is not None, f"{value.name} is not stored"
    return tensor.numpy()


def number_of(value: ir.Value | None) -> float | None:
    """The number behind a stored value of one element."""
    if value is None or not is_stored(value) or int(np.prod(stored_shape(value))) != 1:
        return None
    return float(array_of(value).reshape(-1)[0])


def vector(shared: Shared, value: ir.Value | None, size: int, images: int = 1) -> int:
    """The buffer of a stored vector as float32, padded by zeros, once for each image; zeros for `None`."""
    name = "zeros" if value is None else value.name

    def make() -> NDArray[np.float32]:
        filled = np.zeros(padded(size), np.float32)
        if value is not None:
            filled[:size] = np.broadcast_to(array_of(value).astype(np.float32).reshape(-1), (size,))
        return np.tile(filled, images)

    return shared.stored(f"{name}.vector.{size}.{images}", 4 * padded(size) * images, make)


def whole(shared: Shared, value: ir.Value) -> View:
    """A stored value as it is, row-major."""
    shape = stored_shape(value)
    assert value.dtype is not None, value
    dtype = value.dtype.numpy()
    size = int(np.prod(shape)) * dtype.itemsize

    def make() -> Array:
        return np.ascontiguousarray(array_of(value)).astype(dtype, copy=False)

    return View(shared.stored(f"{value.name}.whole", size, make), dtype.name, shape, row_major(shape))


def _order(node: ir.Node, rank: int) -> tuple[int, ...]:
    return tuple(node.attributes.get_ints("perm", tuple(reversed(range(rank)))))
