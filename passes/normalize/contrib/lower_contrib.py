"""Fused operators of onnxruntime, taken apart into standard ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.passes.normalize.contrib import attentions, norms, products
from intaglio.passes.normalize.contrib.writer import DOMAIN, NotLowered, Writer
from intaglio.passes.normalize.infer_shapes import InferShapes
from intaglio.passes.result import Applied, Declined, PassResult
from intaglio.passes.rewriting import remove_unused, site_of

LOWERINGS: Mapping[str, Callable[[Writer], None]] = {
    "Attention": attentions.attention,
    "BiasGelu": products.bias_gelu,
    "EmbedLayerNormalization": norms.embed_layer_normalization,
    "FastGelu": products.fast_gelu,
    "FusedGemm": products.fused_gemm,
    "FusedMatMul": products.fused_matmul,
    "Gelu": products.gelu,
    "GroupQueryAttention": attentions.group_query_attention,
    "MultiHeadAttention": attentions.multi_head_attention,
    "QuickGelu": products.quick_gelu,
    "RotaryEmbedding": attentions.rotary_embedding,
    "SimplifiedLayerNormalization": norms.simplified_layer_normalization,
    "SkipLayerNormalization": norms.skip_layer_normalization,
    "SkipSimplifiedLayerNormalization": norms.skip_simplified_layer_normalization,
}
OLD_DOMAIN = ("SimplifiedLayerNormalization",)  # onnxruntime keeps it in the standard domain


@dataclass(frozen=True)
class LowerContrib:
    """`com.microsoft.f(…)` → standard ops that compute the same, for every `f` in `LOWERINGS`.

    Exceptions:
    1. An attention has a cache, packed inputs, or a mask of three axes: declined.
    2. Statistics that a norm gives beside its result are read: declined.
    3. A rank that the standard ops need is not known: declined.
    4. Quantised operators, and all others of the domain, stay without a word.
    """

    name: str = "lower_contrib"

    def __call__(self, model: ir.Model) -> PassResult:
        """Take every node apart that can be; shapes become known on the way."""
        accounts: list[Applied | Declined] = []
        for node in list(model.graph):
            known = node.domain == DOMAIN or (not node.domain and node.op_type in OLD_DOMAIN)
            if known and node.op_type in LOWERINGS:
                accounts.append(self._lower(model, node))
        remove_unused(model)
        return PassResult.of(model, accounts)

    def _lower(self, model: ir.Model, node: ir.Node) -> Applied | Declined:
        site = site_of(node)
        reason = _problem(model, node)
        if reason is not None and any(one is not None and one.shape is None for one in node.inputs):
            InferShapes()(model)  # what comes before is lowered now, and onnx knows its shapes
            reason = _problem(model, node)
        if reason is not None:
            return Declined(self.name, site, reason)
        return Applied(self.name, site, f"{node.op_type} in standard ops")


def _problem(model: ir.Model, node: ir.Node) -> str | None:
    """Lower `node`, or say why not."""
    try:
        LOWERINGS[node.op_type](Writer(model.graph, node))
    except NotLowered as reason:
        return str(reason)
    return None
