"""Names of linear layers, read off their nodes and weights."""

from __future__ import annotations

import ast
import re
from collections.abc import Container

import onnx_ir as ir

from intaglio.passes.rewriting import SITE

SCOPES = "pkg.torch.onnx.name_scopes"  # torch's exporter: the modules around a node, and its op, as a list
OPS = r"(MatMul|Gemm|Linear|FusedMatMul|FusedGemm|addmm|linear)"
SUFFIX = re.compile(rf"([./_]({OPS}|weight|kernel)(_\d+)?(:\d+)?)+$")
MADE_UP = re.compile(rf"(node|onnx::|n|val|\.|{OPS}|_|\d)*", re.IGNORECASE)


def layer_name(node: ir.Node, weight: ir.Value, taken: Container[str]) -> str:
    """What the linear layer `node` over `weight` is called, by whichever of these there is:

    its metadata, the module that torch's exporter names, the node's own name, the weight's name.
    Never a name that is taken.
    """
    given = node.metadata_props.get(SITE)
    if given:
        return given
    candidates = [_module(node), _cleaned(node.name), _cleaned(weight.name)]
    name = next((one for one in candidates if not MADE_UP.fullmatch(one)), node.name or node.op_type)
    return _unique(name, taken)


def _module(node: ir.Node) -> str:
    try:
        scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    except (ValueError, SyntaxError):
        return ""
    inner = [str(one) for one in scopes][:-1] if isinstance(scopes, list) else []
    return inner[-1] if inner else ""


def _cleaned(name: str | None) -> str:
    # /encoder/layer.0/dense/MatMul → encoder.layer.0.dense
    return SUFFIX.sub("", name or "").strip("/").replace("/", ".")


def _unique(name: str, taken: Container[str]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}.{count}"
    return candidate
