"""What changed in the standard ops from opset 11 to 25, as rewrites of single nodes.

Every op that is not named here only gained types, and attributes or inputs whose defaults keep its meaning
(a test reads the histories of all ops to make sure).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.passes.rewriting import constant, input_at, insert, supersede

Hindrance = Callable[[ir.Node], str | None]
_HALF_OR_MORE = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class Rule:
    """A node older than opset `since` is rewritten by `apply`, unless `hindrance` says why it cannot be."""

    since: int
    apply: Callable[[ir.Node], None]
    hindrance: Hindrance = lambda _: None


def _axes_become_input(node: ir.Node) -> None:
    _attribute_becomes_input(node, "axes")


def _split_becomes_input(node: ir.Node) -> None:
    _attribute_becomes_input(node, "split")


def _attribute_becomes_input(node: ir.Node, name: str) -> None:
    """`Op(x; name=numbers)` → `Op(x, numbers)`; nothing where the attribute is left out."""
    attribute = node.attributes.pop(name, None)
    if attribute is None:
        return
    moved = (
        ir.RefAttr("value_ints", attribute.ref_attr_name or "", ir.AttributeType.INTS)
        if attribute.is_ref()
        else ir.AttrInt64s("value_ints", attribute.as_ints())
    )
    _append_input(node, 1, _constant(node, moved, name))


def _count_outputs(node: ir.Node) -> None:
    """`Split(x)` into equal parts → the same with `num_outputs`."""
    if input_at(node, 1) is None:
        node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))


def _softmax_over_last(node: ir.Node) -> None:
    """`Softmax(x; axis)` over all axes from `axis` on → `Reshape(Softmax(Flatten(x); axis=-1), Shape(x))`."""
    axis = node.attributes.get_int("axis", 1)
    x = node.inputs[0]
    node.attributes["axis"] = ir.AttrInt64("axis", -1)
    last = -1 if x is None or x.shape is None else len(x.shape) - 1
    if axis in (-1, last):
        return
    flat = insert(node, "Flatten", [x], {"axis": axis}, name=f"{node.name}.flat").outputs[0]
    product = insert(node, node.op_type, [flat], {"axis": -1}, name=f"{node.name}.rows").outputs[0]
    shape = insert(node, "Shape", [x], name=f"{node.name}.shape").outputs[0]
    supersede(node, insert(node, "Reshape", [product, shape]))
    _remove(node)


def _drop_ratio(node: ir.Node) -> None:
    """`Dropout(x; ratio)` → `Dropout(x)`: without training it passes `x` on, whatever the ratio."""
    node.attributes.pop("ratio", None)


def _leave_out_empty(node: ir.Node) -> None:
    """`Resize(x, roi, scales, sizes)` → the same without empty scales."""
    scales, sizes = constant(input_at(node, 2)), input_at(node, 3)
    if sizes is not None and scales is not None and not scales.size:
        node.replace_input_with(2, None)


def _resize_hindrance(node: ir.Node) -> str | None:
    if node.attributes.get_string("coordinate_transformation_mode", "") == "tf_half_pixel_for_nn":
        return "its mode tf_half_pixel_for_nn exists in opset 11 and 12 alone"
    sizes, scales = input_at(node, 3), constant(input_at(node, 2))
    return "its scales beside its sizes are not constant" if sizes is not None and scales is None else None


def _training_hindrance(node: ir.Node) -> str | None:
    used = [one for one in node.outputs[1:] if one.uses() or one.is_graph_output()]
    return "it returns statistics, as in training" if used else None


def _keep_first_output(node: ir.Node) -> None:
    node.resize_outputs(1)


def _offset_boxes(node: ir.Node) -> None:
    """`RoiAlign` took boxes without the half pixel; the attribute that says so came later."""
    mode = "coordinate_transformation_mode"
    node.attributes[mode] = ir.AttrString(mode, "output_half_pixel")


def _rename_mode(node: ir.Node) -> None:
    """`GridSample`: bilinear and bicubic are called linear and cubic."""
    names = {"bilinear": "linear", "bicubic": "cubic"}
    mode = node.attributes.get_string("mode", "bilinear")
    node.attributes["mode"] = ir.AttrString("mode", names.get(mode, mode))


def _axis_becomes_input(node: ir.Node) -> None:
    """`DFT(x, length; axis)` → `DFT(x, length, axis)`, with the default of then."""
    attribute = node.attributes.pop("axis", None)
    moved = (
        ir.RefAttr("value_int", attribute.ref_attr_name or "", ir.AttributeType.INT)
        if attribute is not None and attribute.is_ref()
        else ir.AttrInt64("value_int", 1 if attribute is None else attribute.as_int())
    )
    _append_input(node, 2, _constant(node, moved, "axis"))


def _scale_channels(node: ir.Node) -> None:
    """`GroupNormalization`: scale and bias of a group → the same for each of its channels."""
    x, group = node.inputs[0], node.name
    counts = ir.AttrInt64("value_int", node.attributes.get_int("num_groups", 1))
    channels = insert(node, "Shape", [x], {"start": 1, "end": 2}, name=f"{group}.channels").outputs[0]
    each = insert(node, "Div", [channels, _constant(node, counts, "groups")], name=f"{group}.each").outputs[0]
    one = _constant(node, ir.AttrInt64s("value_ints", [1]), "one")
    wide = insert(node, "Concat", [one, each], {"axis": 0}, name=f"{group}.wide").outputs[0]
    column = _constant(node, ir.AttrInt64s("value_ints", [-1, 1]), "column")
    row = _constant(node, ir.AttrInt64s("value_ints", [-1]), "row")
    for index, name in ((1, "scale"), (2, "bias")):
        tall = insert(node, "Reshape", [node.inputs[index], column], name=f"{group}.{name}.tall").outputs[0]
        spread = insert(node, "Expand", [tall, wide], name=f"{group}.{name}.spread").outputs[0]
        flat = insert(node, "Reshape", [spread, row], name=f"{group}.{name}.flat").outputs[0]
        node.replace_input_with(index, flat)
    assert x is not None
    assert x.dtype is not None
    node.attributes["stash_type"] = ir.AttrInt64("stash_type", int(x.dtype))


def _group_hindrance(node: ir.Node) -> str | None:
    x = node.inputs[0]
    if x is None or x.dtype not in _HALF_OR_MORE:
        return "the type of its input is not known, and with it the precision of its statistics"
    groups = node.attributes.get("num_groups")
    return "its number of groups is a function's parameter" if groups is None or groups.is_ref() else None


def _softmax_hindrance(node: ir.Node) -> str | None:
    axis = node.attributes.get("axis")
    return "its axis is a function's parameter" if axis is not None and axis.is_ref() else None


def _mode_hindrance(node: ir.Node) -> str | None:
    mode = node.attributes.get("mode")
    return "its mode is a function's parameter" if mode is not None and mode.is_ref() else None


def _constant(node: ir.Node, attribute: ir.Attr, suffix: str) -> ir.Value:
    made = ir.node("Constant", [], name=f"{node.name}.{suffix}")
    made.attributes[attribute.name] = attribute
    made.outputs[0].name = made.name
    assert node.graph is not None, "only nodes of a graph can be rewritten"
    node.graph.insert_before(node, made)
    return made.outputs[0]


def _append_input(node: ir.Node, index: int, value: ir.Value) -> None:
    node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


def _remove(node: ir.Node) -> None:
    assert node.graph is not None, "only nodes of a graph can be rewritten"
    node.graph.remove(node, safe=True)


_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSumSquare"),
)
_SOFTMAX = Rule(13, _softmax_over_last, _softmax_hindrance)

RULES: dict[str, tuple[Rule, ...]] = {
    **{name: (Rule(18, _axes_become_input),) for name in _REDUCTIONS},
    **{name: (Rule(13, _axes_become_input),) for name in ("ReduceSum", "Squeeze", "Unsqueeze")},
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), (_SOFTMAX,)),
    "Split": (Rule(13, _split_becomes_input), Rule(18, _count_outputs)),
    "Dropout": (Rule(12, _drop_ratio),),
    "Resize": (Rule(13, _leave_out_empty, _resize_hindrance),),
    "BatchNormalization": (Rule(14, _keep_first_output, _training_hindrance),),
    "RoiAlign": (Rule(16, _offset_boxes),),
    "GridSample": (Rule(20, _rename_mode, _mode_hindrance),),
    "DFT": (Rule(20, _axis_becomes_input),),
    "GroupNormalization": (Rule(21, _scale_channels, _group_hindrance),),
}
