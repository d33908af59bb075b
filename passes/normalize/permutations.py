"""How a `Transpose` moves axes."""

from __future__ import annotations

import onnx_ir as ir

from intaglio.passes.rewriting import rank


def permutation(node: ir.Node) -> list[int] | None:
    """The axes that a `Transpose` reads in turn; `None` where it reverses an unknown number of them."""
    given = node.attributes.get_ints("perm", None)
    if given is not None:
        return list(given)
    axes = rank(node.inputs[0]) or rank(node.outputs[0])
    return None if axes is None else list(reversed(range(axes)))
