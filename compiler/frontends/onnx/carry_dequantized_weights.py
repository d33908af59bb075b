"""Weights that a graph dequantises itself, in the blocked form of our IR."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from intaglio.compiler.frontends.onnx.blocked_linear import (
    Blocks,
    Store,
    dequantized,
    stored_tensor,
    stored_value,
    turned,
)
from intaglio.compiler.frontends.onnx.blocks import Array, converted
from intaglio.passes.result import Applied, Declined, PassResult
from intaglio.passes.rewriting import input_at, is_op, made_by, remove_unused, site_of, take_over

_CODES = (ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT8, ir.DataType.UINT8)
_SIGNED = (ir.DataType.INT4, ir.DataType.INT8)


@dataclass(frozen=True)
class CarryDequantizedWeights:
    """`MatMul(x, DequantizeLinear(W, s[, z]))` → `MatMul(x, Transpose(DequantizeLinear(Wᵀ, sᵀ[, zᵀ])))`.

    `W` is `[K, N]`, `Wᵀ` is `[N, K]` with blocks along K: one scale for all, or one for each of the N
    columns, become blocks of K; blocks along K stay as long as they are. A weight that stands the other way
    round already, before a `Transpose` or in `Gemm` with `transB`, keeps its codes. Every dequantised value
    stays the same bit for bit. Zero points that are all 0 are left out for signed codes.

    Exceptions, each declined:
    1. `x` is dequantised too: onnxruntime multiplies such pairs as integers, and they stay as they are.
    2. Codes are not int4, uint4, int8 or uint8, or the result is not float32.
    3. Scales run along K by single elements, or their blocks run along N or do not divide K.
    4. Something else than linear layers uses the weight, or these want it both ways round.
    5. Codes, scales or zero points are not initialisers.
    Weights that are no matrices, those in subgraphs and functions, and those in the final form, stay.
    """

    name: str = "carry_dequantized_weights"

    def __call__(self, model: ir.Model) -> PassResult:
        """Rewrite every such weight of the main graph."""
        nodes = [node for node in model.graph if _is_matrix(node)]
        store = Store(model.graph)
        accounts = [one for node in nodes if (one := self._carry(store, node)) is not None]
        remove_unused(model)
        return PassResult.of(model, accounts)

    def _carry(self, store: Store, node: ir.Node) -> Applied | Declined | None:
        uses = {_orientation(use.node, use.idx) for use in node.outputs[0].uses()}
        uses |= {""} if node.outputs[0].is_graph_output() else set()
        if "NK" in uses and _is_blocked_along(node, 1):
            return None
        site = site_of(node)
        if reason := _hindrance(node, uses):
            return Declined(self.name, site, reason)
        columns_first = uses == {"KN"}
        blocks = _blocks(store, node, columns_first)
        weight = dequantized(node, blocks, f"{node.name}.blocked")
        result = turned(node, weight, f"{node.name}.transposed") if columns_first else weight
        take_over(node.outputs[0], result)
        return Applied(
            self.name, site, f"{blocks.codes.dtype} {blocks.codes.shape} in blocks of {blocks.size}"
        )


def _is_matrix(node: ir.Node) -> bool:
    if not is_op(node, "DequantizeLinear") or node.inputs[0] is None:
        return False
    tensor = node.inputs[0].const_value
    return tensor is not None and len(tensor.shape) == 2


def _orientation(node: ir.Node, index: int) -> str:
    """`KN` or `NK`, as a linear layer takes its weight; empty for any other use."""
    if is_op(node, "MatMul") and index == 1:
        return "KN"
    if is_op(node, "Gemm") and index == 1:
        return "NK" if node.attributes.get_int("transB", 0) else "KN"
    if is_op(node, "Transpose") and _is_turned_weight(node):
        return "NK"
    return ""


def _is_turned_weight(node: ir.Node) -> bool:
    uses = [(one.node, one.idx) for one in node.outputs[0].uses()]
    if node.outputs[0].is_graph_output() or tuple(node.attributes.get_ints("perm", (1, 0))) != (1, 0):
        return False
    return bool(uses) and all(is_op(user, "MatMul") and index == 1 for user, index in uses)


def _is_blocked_along(node: ir.Node, axis: int) -> bool:
    return node.attributes.get_int("block_size", 0) > 0 and node.attributes.get_int("axis", 1) % 2 == axis


def _hindrance(node: ir.Node, uses: set[str]) -> str | None:
    """The first exception that `node` is."""
    if uses not in ({"KN"}, {"NK"}):
        return "not only linear layers use it, or these want it both ways round"
    if any(_multiplies_integers(user) for user in _products(node)):
        return "activations are dequantised too: onnxruntime multiplies integers"
    stored_values = [one for one in node.inputs if one is not None]
    if any(one.const_value is None or not one.is_initializer() for one in stored_values):
        return "its codes, scales or zero points are computed or fed"
    codes, scale = stored_tensor(node, 0), stored_tensor(node, 1)
    if codes.dtype not in _CODES or scale.dtype != ir.DataType.FLOAT:
        return f"codes are {codes.dtype}, scales {scale.dtype}"
    if node.attributes.get_int("output_dtype", 0) not in (0, int(ir.DataType.FLOAT)):
        return "the result is not float32"
    return _scale_hindrance(node, uses == {"KN"})


def _products(node: ir.Node) -> list[ir.Node]:
    users = list(node.outputs[0].consumers())
    return [
        one for user in users for one in (user.outputs[0].consumers() if is_op(user, "Transpose") else [user])
    ]


def _multiplies_integers(product: ir.Node) -> bool:
    return made_by(product.inputs[0], "DequantizeLinear") is not None


def _scale_hindrance(node: ir.Node, columns_first: bool) -> str | None:
    along = 0 if columns_first else 1  # the axis of W that is K
    shape, scale = stored_tensor(node, 0).shape.numpy(), stored_tensor(node, 1).shape.numpy()
    axis, block = node.attributes.get_int("axis", 1) % 2, node.attributes.get_int("block_size", 0)
    if int(np.prod(scale)) == 1 and not block:
        return None
    if block:
        if axis != along or shape[along] % block:
            return f"blocks of {block} along axis {axis} of {list(shape)} are none along K"
        return None
    if axis == along:
        return f"scales {list(scale)} run along K"
    return None if tuple(scale) == (shape[axis],) else f"scales {list(scale)} do not fit {list(shape)}"


def _blocks(store: Store, node: ir.Node, columns_first: bool) -> Blocks:
    source, codes = stored_value(node, 0), stored_tensor(node, 0)
    rows, columns = codes.shape.numpy()[::-1] if columns_first else codes.shape.numpy()
    size = node.attributes.get_int("block_size", 0) or columns
    blocks = (rows, columns // size)
    if columns_first:
        source = store.keep(source, "turned", converted(codes, codes.dtype, (rows, columns), np.transpose))
    spread = _spreader(blocks, columns_first)
    scale = converted(stored_tensor(node, 1), ir.DataType.FLOAT, blocks, spread)
    zero_point = None
    if _has_zero_point(node):
        tensor = stored_tensor(node, 2)
        zero_point = converted(tensor, tensor.dtype, blocks, spread)
    return Blocks(
        source,
        store.keep(stored_value(node, 1), "blocks", scale, columns_first),
        None
        if zero_point is None
        else store.keep(stored_value(node, 2), "blocks", zero_point, columns_first),
        size,
    )


def _has_zero_point(node: ir.Node) -> bool:
    if input_at(node, 2) is None:
        return False
    tensor = stored_tensor(node, 2)
    return tensor.dtype not in _SIGNED or bool(np.any(tensor.numpy().astype(np.int8)))


def _spreader(blocks: tuple[int, int], columns_first: bool) -> Callable[[Array], Array]:
    """What brings scales of any layout to `blocks` = `[N, K / size]`."""

    def spread(array: Array) -> Array:
        if array.size == 1:
            return np.full(blocks, array.reshape(()))
        if array.ndim == 1:
            return array[:, np.newaxis]
        return array.T if columns_first else array

    return spread
