"""From any opset to 25, node by node, in subgraphs and functions too; or not at all, with the reason."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from onnx import defs

from intaglio.compiler.frontends.onnx.bodies import ir_bodies
from intaglio.compiler.frontends.onnx.kernels import Ranges, cpu_kernels, loses_kernel, standard_schema
from intaglio.compiler.frontends.onnx.opset_rules import RULES, Rule
from intaglio.compiler.ir.functions import OPSET
from intaglio.compiler.ir.rules import OPSET_KEPT


def convert_opset(model: ir.Model) -> None:
    """Bring the standard domain of `model` to opset 25, in place.

    One node that cannot be converted faithfully keeps the whole model on its opset: mixed versions are no
    valid ONNX. The reasons are then in the model's metadata under `intaglio.opset_kept`.
    """
    bodies = [(body, _version(body)) for body in ir_bodies(model)]
    kernels = cpu_kernels()
    reasons = [reason for body, version in bodies for reason in _hindrances(body, version, kernels)]
    if reasons:
        model.metadata_props[OPSET_KEPT] = "; ".join(dict.fromkeys(reasons))
        return
    for body, version in bodies:
        for node, rule in list(_due(body, version)):
            rule.apply(node)
        _drop_defaults(body, version)
        body.opset_imports[""] = OPSET


def _version(body: ir.Graph | ir.Function) -> int:
    return body.opset_imports.get("", OPSET)


def _standard(body: ir.Graph | ir.Function) -> Iterator[ir.Node]:
    return (node for node in ir.traversal.RecursiveGraphIterator(body) if node.domain == "")


def _due(body: ir.Graph | ir.Function, version: int) -> Iterator[tuple[ir.Node, Rule]]:
    for node in _standard(body):
        yield from ((node, rule) for rule in RULES.get(node.op_type, ()) if version < rule.since)


def _hindrances(body: ir.Graph | ir.Function, version: int, kernels: Ranges) -> Iterator[str]:
    for node in _standard(body) if version != OPSET else ():
        if reason := _hindrance(node, version, kernels):
            yield f"{node.op_type} {node.name!r} of opset {version}: {reason}"


def _hindrance(node: ir.Node, version: int, kernels: Ranges) -> str | None:
    if version > OPSET:
        return _too_new(node, version)
    if loses_kernel(node.op_type, version, kernels):
        return f"onnxruntime has no kernel for the op as of opset {OPSET}"
    due = (rule for rule in RULES.get(node.op_type, ()) if version < rule.since)
    return next((reason for rule in due if (reason := rule.hindrance(node))), None)


def _too_new(node: ir.Node, version: int) -> str | None:
    """Why a node of an opset after 25 does not mean the same in 25."""
    newer, older = standard_schema(node.op_type, version), standard_schema(node.op_type, OPSET)
    if newer is None or newer.since_version <= OPSET:
        return None
    if older is None:
        return f"the op came with opset {newer.since_version}"
    if node.op_type == "Mod" and not node.attributes.get_int("fmod", 0):
        return "its sign rules for floats came with opset 28"
    return _attribute_beyond(node, older, newer) or _type_beyond(node, older)


def _attribute_beyond(node: ir.Node, older: defs.OpSchema, newer: defs.OpSchema) -> str | None:
    for name, attribute in node.attributes.items():
        if name not in older.attributes and not _is_default(attribute, newer):
            return f"its attribute {name!r} came with opset {newer.since_version}"
    return None


def _is_default(attribute: ir.Attr, schema: defs.OpSchema) -> bool:
    default = schema.attributes[attribute.name].default_value
    return not attribute.is_ref() and ir.serde.deserialize_attribute(default).value == attribute.value


def _type_beyond(node: ir.Node, older: defs.OpSchema) -> str | None:
    """Whether a value is of a type that opset 25 does not take there, or of none that is known."""
    allowed = {one.type_param_str: set(one.allowed_type_strs) for one in older.type_constraints}
    pairs = [*zip(node.inputs, older.inputs, strict=False), *zip(node.outputs, older.outputs, strict=False)]
    for value, formal in pairs:
        if value is None:
            continue
        if not isinstance(value.type, ir.TensorType):
            return f"the type of {value.name!r} is not known, or no tensor"
        kind = f"tensor({value.type.dtype.name.lower()})"
        if kind not in allowed.get(formal.type_str, {formal.type_str}):
            return f"{value.name!r} is {kind}, which opset {OPSET} does not take there"
    return None


def _drop_defaults(body: ir.Graph | ir.Function, version: int) -> None:
    """Remove attributes that opset 25 does not have; that they say nothing new was checked."""
    for node in _standard(body) if version > OPSET else ():
        schema = standard_schema(node.op_type, OPSET)
        for name in [one for one in node.attributes if schema and one not in schema.attributes]:
            del node.attributes[name]
