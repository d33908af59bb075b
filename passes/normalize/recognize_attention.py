"""Attention, however it was spelled, as one grouped-query `Attention` node."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from intaglio.passes.normalize.attention_parts import is_causal_mask, spelled_out
from intaglio.passes.normalize.repeated_heads import unexpanded
from intaglio.passes.result import Applied, Declined, PassResult, shortfall
from intaglio.passes.rewriting import count, input_at, insert, is_op, remove_unused, site_of, supersede

MASK = 3


@dataclass(frozen=True)
class RecognizeAttention:
    """`Softmax(s · Q · Kᵀ + mask) · V` → `Attention(Q, K, V; scale=s, is_causal=1)`, K and V unrepeated.

    An `Attention` node that is there already loses repeated heads and a constant causal mask as well.

    Exceptions:
    1. The mask is computed, or is not the causal one: declined (the node, if it is one, keeps its mask).
    2. Heads are repeated in another order than `0, 0, 1, 1, …`, or by an unknown number: declined.
    3. The probabilities are used elsewhere too: declined.
    4. `Attention` over 3-D inputs: its head counts are attributes, and nothing is to be done.
    With `expected`, fewer `Attention` nodes than that after the pass are declined.
    """

    expected: int | None = None
    name: str = "recognize_attention"

    def __call__(self, model: ir.Model) -> PassResult:
        """Rewrite every attention found."""
        accounts: list[Applied | Declined] = []
        for node in list(model.graph):
            if is_op(node, "Softmax"):
                accounts.append(self._from_softmax(node))
            elif is_op(node, "Attention") and "q_num_heads" not in node.attributes:  # exception 4
                accounts += [*self._without_mask(node), *self._without_repeats(node)]
        remove_unused(model)
        missing = shortfall(self.name, self.expected, count(model, "Attention"), "Attention")
        return PassResult.of(model, [*missing, *accounts])

    def _from_softmax(self, softmax: ir.Node) -> Applied | Declined:
        found = spelled_out(softmax)
        if isinstance(found, str):
            return Declined(self.name, site_of(softmax), found)
        attributes: dict[str, int | float] = {"scale": found.scale, "is_causal": int(found.causal)}
        inputs = [found.query, found.key, found.value]
        attention = insert(found.product, "Attention", inputs, attributes)
        supersede(found.product, attention)
        return Applied(self.name, site_of(attention), f"Softmax → Attention, scale {found.scale:.6g}")

    def _without_mask(self, node: ir.Node) -> list[Applied | Declined]:
        mask = input_at(node, MASK)
        if mask is None:
            return []
        if (causal := is_causal_mask(mask)) is not True:
            return [Declined(self.name, site_of(node), str(causal))]
        node.replace_input_with(MASK, None)
        node.attributes["is_causal"] = ir.AttrInt64("is_causal", 1)
        return [Applied(self.name, site_of(node), "constant mask → is_causal")]

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
