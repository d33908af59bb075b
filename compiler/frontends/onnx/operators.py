"""Ops and opsets: what neither onnx nor onnxruntime knows, and nodes that do not fit their op."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import onnx
from onnx import defs

from intaglio.compiler.frontends.onnx.bodies import Body, at, bodies, domain_of
from intaglio.compiler.frontends.onnx.problems import Problems
from intaglio.compiler.frontends.onnx.structure import function_key

OLDEST_OPSET = 11
# onnxruntime writes these fused ops into the standard domain, whatever its version.
RUNTIME_OPS_IN_STANDARD = ("LayerNormalization", "SimplifiedLayerNormalization")
# Marked as dropped by the opset that replaced their definition; the old one is converted to the new one.
REDEFINED = ("GroupNormalization",)
_TYPES = frozenset(onnx.AttributeProto.AttributeType.keys())

Kinds = Mapping[tuple[str, str], Any]


def check_operators(model: onnx.ModelProto, problems: Problems) -> None:
    """Add what is wrong with opsets, ops, and the inputs and attributes of nodes."""
    functions = {function_key(one) for one in model.functions}
    runtime = _runtime_schemas() if _needs_runtime(model) else {}
    for body in bodies(model):
        problems.add(unsupported=_opset_problems(body))
        for node in body.content.node:
            _check_references(body, node, problems)
            if domain_of(node) not in body.opsets:
                problems.add(broken=[f"{body.place}: domain {node.domain!r} of {at(node)} is not imported"])
            elif function_key(node) not in functions:
                _check_node(body, node, runtime, problems)


def _opset_problems(body: Body) -> Iterator[str]:
    version, newest = body.opsets.get("", OLDEST_OPSET), defs.onnx_opset_version()
    if version < OLDEST_OPSET:
        yield f"opset {version} is older than {OLDEST_OPSET}: bring it up with onnx.version_converter"
    if version > newest:
        yield f"opset {version} is newer than {newest}, the last that the installed onnx knows: update onnx"


def _needs_runtime(model: onnx.ModelProto) -> bool:
    return any(domain_of(node) != "" for body in bodies(model) for node in body.content.node)


def _runtime_schemas() -> Kinds:
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # only models with such ops pay for it

    return {(one.domain, one.name): one for one in state.get_all_operator_schema()}


def _check_references(body: Body, node: onnx.NodeProto, problems: Problems) -> None:
    function = body.function
    known = set() if function is None else {*function.attribute, *(a.name for a in function.attribute_proto)}
    wanted = [one.ref_attr_name for one in node.attribute if one.ref_attr_name]
    missing = [name for name in wanted if name not in known]
    problems.add(
        broken=[
            f"{body.place}: {at(node)} refers to attribute {name!r}, which is not there" for name in missing
        ]
    )


def _check_node(body: Body, node: onnx.NodeProto, runtime: Kinds, problems: Problems) -> None:
    domain, place = domain_of(node), f"{body.place}: {at(node)}"
    if domain == "" and node.op_type in RUNTIME_OPS_IN_STANDARD:
        return
    schema = _schema(domain, node.op_type, body.opsets[domain], runtime)
    if isinstance(schema, str):
        problems.add(unsupported=[f"{place}: {schema}"])
        return
    misfits = [*_count_misfits(node, schema), *_attribute_misfits(node, schema, strict=domain == "")]
    problems.add(broken=[f"{place} {misfit}" for misfit in misfits])


def _schema(domain: str, name: str, version: int, runtime: Kinds) -> Any | str:
    """The op's schema, or why there is none."""
    if domain != "":
        return runtime.get((domain, name)) or f"neither the model nor onnxruntime defines {domain}.{name}"
    try:
        schema = defs.get_schema(name, version, domain)
    except defs.SchemaError:
        return f"opset {version} has no op {name}"
    dropped = schema.deprecated and name not in REDEFINED
    return f"opset {version} has dropped {name}" if dropped else schema


def _count_misfits(node: onnx.NodeProto, schema: Any) -> Iterator[str]:
    if not schema.min_input <= len(node.input) <= schema.max_input:
        yield f"has {len(node.input)} inputs; the op takes {_span(schema.min_input, schema.max_input)}"
    if not schema.min_output <= len(node.output) <= schema.max_output:
        yield f"has {len(node.output)} outputs; the op gives {_span(schema.min_output, schema.max_output)}"
    for index, (name, formal) in enumerate(zip(node.input, schema.inputs, strict=False)):
        if not name and str(formal.option).endswith("Single"):
            yield f"lacks input {index} ({formal.name})"


def _span(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}"


def _attribute_misfits(node: onnx.NodeProto, schema: Any, *, strict: bool) -> Iterator[str]:
    names = {one.name for one in node.attribute}
    required = [name for name, one in schema.attributes.items() if one.required]
    yield from (f"lacks attribute {name!r}" for name in required if name not in names)
    for one in node.attribute:
        declared = schema.attributes.get(one.name)
        kind = None if declared is None else declared.type.name
        if kind is None and strict:
            yield f"has attribute {one.name!r}, which the op does not"
        elif kind in _TYPES and kind != _type_name(one.type):
            yield f"has attribute {one.name!r} of type {_type_name(one.type)}; it is {kind}"


def _type_name(number: int) -> str:
    known = number in onnx.AttributeProto.AttributeType.values()
    return str(onnx.AttributeProto.AttributeType.Name(number)) if known else str(number)
