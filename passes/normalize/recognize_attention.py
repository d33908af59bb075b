"""Attention, however it was spelled, as one grouped-query `Attention` node."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from intaglio.compiler.ir.builder import GraphBuilder
from intaglio.passes.normalize.attention_masks import Masking, MaskWriter
from intaglio.passes.normalize.attention_parts import AS_IT_IS, Heads, SpelledOut, spelled_out
from intaglio.passes.normalize.attention_scores import Mask
from intaglio.passes.normalize.repeated_heads import unexpanded
from intaglio.passes.result import Applied, Declined, PassResult, shortfall
from intaglio.passes.rewriting import (
    count,
    described,
    input_at,
    insert,
    is_op,
    remove_unused,
    site_of,
    sizes,
    supersede,
)

MASK, PAST = 3, 4


@dataclass(frozen=True)
class RecognizeAttention:
    """`Softmax(softcap(s · Q · Kᵀ) + mask) · V` → `Attention(Q, K, V, mask; scale, softcap, is_causal)`.

    Scales of queries, keys and scores are one. Causal masks, constant or computed, become `is_causal`; masks
    made of booleans or of 0 and 1 become a boolean `attn_mask`, others an added one. K and V lose repeats of
    heads. Queries, keys and values with batch and heads joined are taken before that. An `Attention` node
    that is there already loses repeated heads and a causal mask as well.

    Exceptions:
    1. A mask is scaled or soft-capped together with the scores: declined.
    2. Heads are repeated in another order than `0, 0, 1, 1, …`, or by an unknown number: declined.
    3. The probabilities are used elsewhere too: declined.
    4. Queries, keys or values are not known to have four axes: declined.
    5. `Attention` over 3-D inputs: its head counts are attributes; see `SplitHeads`.
    A query whose keys are all masked gives 0 afterwards, whatever it gave before: no key has a meaning then.
    With `expected`, fewer `Attention` nodes than that after the pass are declined.
    """

    expected: int | None = None
    name: str = "recognize_attention"

    def __call__(self, model: ir.Model) -> PassResult:
        """Rewrite every attention found."""
        accounts: list[Applied | Declined] = []
        for node in list(model.graph):
            if is_op(node, "Softmax"):
                accounts += self._from_softmax(node)
            elif is_op(node, "Attention") and "q_num_heads" not in node.attributes:  # exception 5
                accounts += [*self._without_causal_mask(node), *self._without_repeats(node)]
        remove_unused(model)
        missing = shortfall(self.name, self.expected, count(model, "Attention"), "Attention")
        return PassResult.of(model, [*missing, *accounts])

    def _from_softmax(self, softmax: ir.Node) -> list[Applied | Declined]:
        found = spelled_out(softmax)
        if found is None:
            return []
        if isinstance(found, str):
            return [Declined(self.name, site_of(softmax), found)]
        attention = _attention(found)
        detail = f"Softmax → Attention, scale {found.scale:.6g}"
        return [Applied(self.name, site_of(attention), detail)]

    def _without_causal_mask(self, node: ir.Node) -> list[Applied]:
        mask, query = input_at(node, MASK), node.inputs[0]
        if (
            mask is None
            or query is None
            or any(input_at(node, place) for place in (PAST, PAST + 1, PAST + 2))
        ):
            return []
        kind = "kept" if mask.dtype == ir.DataType.BOOL else "added"
        masking = MaskWriter(node, query).masking([Mask(mask, "kept" if kind == "kept" else "added")])
        if not masking.causal:
            return []
        node.replace_input_with(MASK, masking.mask)
        node.attributes["is_causal"] = ir.AttrInt64("is_causal", 1)
        return [Applied(self.name, site_of(node), "causal mask → is_causal")]

    def _without_repeats(self, node: ir.Node) -> list[Applied | Declined]:
        sources = [unexpanded(value) for value in node.inputs[1:3] if value is not None]
        problems = [one for one in sources if isinstance(one, str)]
        if problems:
            return [Declined(self.name, site_of(node), "; ".join(problems))]
        repeated = [one is not node.inputs[1 + index] for index, one in enumerate(sources)]
        if not any(repeated):
            return []
        if not all(repeated):
            return [Declined(self.name, site_of(node), "only one of key and value has repeated heads")]
        for index, one in enumerate(sources):
            assert isinstance(one, ir.Value), "strings were reported above"
            node.replace_input_with(1 + index, one)
        return [Applied(self.name, site_of(node), "repeated heads removed")]


def _attention(found: SpelledOut) -> ir.Node:
    """Put `Attention` in the place of the product with the values."""
    before = found.result
    query, key, value = (_in_order(one, before) for one in (found.query, found.key, found.value))
    masking = MaskWriter(before, query).masking(found.scores.masks)
    inputs = [query, key, value, *([masking.mask] if masking.mask is not None else [])]
    attention = insert(before, "Attention", inputs, _attributes(found, masking))
    if not found.flat:
        described(before.outputs[0], attention.outputs[0], sizes(before.outputs[0]))
        supersede(before, attention)
        return attention
    described(query, attention.outputs[0], [*(sizes(query) or [None] * 4)[:3], (sizes(value) or [None])[-1]])
    supersede(before, _joined(attention, before))
    return attention


def _attributes(found: SpelledOut, masking: Masking) -> dict[str, int | float]:
    attributes: dict[str, int | float] = {"scale": found.scale, "is_causal": int(masking.causal)}
    return {**attributes, "softcap": found.scores.softcap} if found.scores.softcap else attributes


def _in_order(heads: Heads, before: ir.Node) -> ir.Value:
    if heads.order == AS_IT_IS:
        return heads.source
    shape = sizes(heads.source)
    node = insert(before, "Transpose", [heads.source], {"perm": list(heads.order)})
    return described(heads.source, node.outputs[0], shape and [shape[axis] for axis in heads.order])


def _joined(attention: ir.Node, before: ir.Node) -> ir.Node:
    """The result as `[batch · heads, sequence, head_dim]`."""
    graph = before.graph
    assert isinstance(graph, ir.Graph), "only nodes of a graph are rewritten"
    builder = GraphBuilder.extend(graph, before=before)
    tail = builder.node("Shape", [attention.outputs[0]], {"start": 2})
    target = builder.node("Concat", [builder.integers([-1]), tail], {"axis": 0})
    node = insert(before, "Reshape", [attention.outputs[0], target])
    described(before.outputs[0], node.outputs[0], sizes(before.outputs[0]))
    return node
