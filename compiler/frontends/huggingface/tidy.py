"""Takes out of an exported graph what says nothing: computed constants, casts to the same type, whole slices.

What remains is regular: constants are initialisers, each once; shapes of reshapes are constants; every value
has a shape; and a node stands for something that the module did.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import (
    IdentityEliminationPass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
)

from intaglio.compiler.frontends.huggingface.shapes import describe
from intaglio.compiler.ir.builder import GraphBuilder
from intaglio.passes.normalize.fold_constants import FoldConstants
from intaglio.passes.rewriting import bypass, integers, is_op, made_by, sizes

_DEFAULTS = {"right_window_size": -1, "left_window_size": -1, "qk_matmul_output_mode": 0, "softcap": 0.0}
_UNUSED = ("kv_num_heads", "q_num_heads", "softmax_precision")
_READABLE = 16  # elements of a constant whose content can be its name


def tidy(model: ir.Model, keep: str) -> None:
    """Simplify the graph of `model` in place; every value that stays keeps its meaning to the last bit.

    Initialisers whose names start with `keep` keep them.
    """
    graph = model.graph
    for node in list(graph):
        _plain_cast(node)
    FoldConstants()(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    builder = GraphBuilder.extend(graph)
    for node in list(graph):
        describe(node)
        _drop_if_idle(node)
        _constant_shape(builder, node)
        _reshape_once(node)
        _short_attributes(node)
    IdentityEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    _share_constants(builder, keep)


def _plain_cast(node: ir.Node) -> None:
    """`CastLike(x, y)` → `Cast(x)` to the type of `y`, where that is known."""
    like = node.inputs[1] if is_op(node, "CastLike") else None
    if like is None or like.dtype is None or node.graph is None:
        return
    cast = ir.node("Cast", [node.inputs[0]], {"to": int(like.dtype)})
    cast.metadata_props.update(node.metadata_props)
    node.graph.insert_before(node, cast)
    old, new = node.outputs[0], cast.outputs[0]
    new.shape, new.type = old.shape, ir.TensorType(like.dtype)
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def _drop_if_idle(node: ir.Node) -> None:
    if not node.inputs or node.inputs[0] is None or len(node.outputs) != 1:
        return
    source, result = node.inputs[0], node.outputs[0]
    casts = is_op(node, "Cast") and source.dtype == node.attributes["to"].as_int()
    slices = is_op(node, "Slice") and _alike(source, result) and _goes_forward(node)
    shapes = node.domain == "" and node.op_type in ("Reshape", "Expand") and _alike(source, result)
    if casts or slices or shapes:
        bypass(result, source)


def _alike(one: ir.Value, other: ir.Value) -> bool:
    """Whether two values have the same type, and the same sizes, all of them known or named."""
    known = sizes(one)
    return one.dtype == other.dtype and known is not None and None not in known and known == sizes(other)


def _goes_forward(node: ir.Node) -> bool:
    """Whether a `Slice` that keeps all sizes keeps the order, too."""
    steps = integers(node.inputs[4]) if len(node.inputs) > 4 else [1]
    return steps is not None and all(step > 0 for step in steps)


def _constant_shape(builder: GraphBuilder, node: ir.Node) -> None:
    """`Reshape(x, computed)` → `Reshape(x, constant)`: 0 for a size that stays, at most one -1 elsewhere."""
    if not is_op(node, "Reshape") or integers(node.inputs[1]) is not None:
        return
    before, after = sizes(node.inputs[0]), sizes(node.outputs[0])
    if after is None or before is None:
        return
    numbers = [_size(place, one, before) for place, one in enumerate(after)]
    if numbers.count(-1) <= 1:
        node.replace_input_with(1, builder.integers(numbers))
        node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)


def _size(place: int, size: int | str | None, before: list[int | str | None]) -> int:
    if isinstance(size, int):
        return size
    stays = size is not None and place < len(before) and before[place] == size
    return 0 if stays else -1


def _reshape_once(node: ir.Node) -> None:
    """`Reshape(Reshape(x))` → `x` where the second undoes the first."""
    inner = made_by(node.inputs[0], "Reshape") if is_op(node, "Reshape") else None
    source = inner.inputs[0] if inner is not None else None
    if source is not None and _alike(source, node.outputs[0]):
        bypass(node.outputs[0], source)


def _short_attributes(node: ir.Node) -> None:
    """`Attention` with the output that is used and no defaults; `Split` with either sizes or a number."""
    if is_op(node, "Split") and len(node.inputs) > 1:
        node.attributes.pop("num_outputs", None)
    if not is_op(node, "Attention"):
        return
    node.resize_outputs(1)
    for name, default in _DEFAULTS.items():
        attribute = node.attributes.get(name)
        if attribute is not None and attribute.value == default:
            del node.attributes[name]
    for name in _UNUSED:
        node.attributes.pop(name, None)


def _share_constants(builder: GraphBuilder, keep: str) -> None:
    """Constants of equal content become one, named after it."""
    for name, value in list(builder.graph.initializers.items()):
        tensor = value.const_value
        if name.startswith(keep) or tensor is None or tensor.size > _READABLE:
            continue
        shared = builder.constant(tensor.numpy())
        if shared is not value:
            value.replace_all_uses_with(shared)
            del builder.graph.initializers[name]
