"""Which module of a traced model made a node, as the exporter writes it down."""

from __future__ import annotations

import ast
import re

import onnx_ir as ir

NOWHERE = "_empty_nn_module_stack_from_metadata_hook"  # what torch calls the origin of sizes
SCOPES = (
    "pkg.torch.onnx.name_scopes"  # a Python list: paths of the modules from outside in, then the operator
)


def module_path(node: ir.Node) -> str:
    """Path of the innermost module; empty for the outermost, or where nothing is known."""
    scopes = _scopes(node)
    path = scopes[-2] if len(scopes) > 1 else ""
    return "" if path == NOWHERE else path


def operator_name(node: ir.Node) -> str:
    """What the exporter calls the operator, such as `mul_3`."""
    scopes = _scopes(node)
    return scopes[-1] if scopes else node.op_type.lower()


def place_in(node: ir.Node, path: str) -> int | None:
    """The number n if the node belongs to the module `{path}.{n}` or to one inside it."""
    found = re.match(rf"{re.escape(path)}\.(\d+)(\.|$)", module_path(node))
    return int(found.group(1)) if found else None


def rescoped(node: ir.Node, old: str, new: str) -> str:
    """The scopes of `node` as they are written, with the module `new` in the place of `old`."""
    pattern = re.compile(rf"{re.escape(old)}(?=\.|$)")
    return repr([pattern.sub(new, one, count=1) if one.startswith(old) else one for one in _scopes(node)])


def _scopes(node: ir.Node) -> list[str]:
    written = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    return [str(one) for one in written]
