"""Linear layers that read the same input, as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from intaglio.compiler.ir.builder import GraphBuilder
from intaglio.passes.linears import Linear, find_linears
from intaglio.passes.result import Applied, Declined, PassResult, shortfall
from intaglio.passes.rewriting import SITE, insert, remove_unused, take_over
from intaglio.passes.store_weight import store_weight
from intaglio.passes.tensors import join_rows
from intaglio.passes.weights import tensor_of

PARTS = ("codes", "scale", "zero_point", "minimum")
LLAMA_GROUPS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


@dataclass(frozen=True)
class MergeProjections:
    """`MatMul(x, W₁ᵀ), MatMul(x, W₂ᵀ), …` → `Split(MatMul(x, [W₁; W₂; …]ᵀ))`, for siblings named in `groups`.

    Codes, scales and minima are joined along N as they are stored, so nothing is rounded; the joined tensors
    exist only while they are read.

    Exceptions:
    1. The siblings read different inputs: declined.
    2. Their weights are stored in different formats: declined.
    3. Another reader shares one of the weights: the original stays for it.
    With `expected`, fewer merged layers than that after the pass are declined.
    """

    expected: int | None = None
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: dict(LLAMA_GROUPS))
    name: str = "merge_projections"

    def __call__(self, model: ir.Model) -> PassResult:
        """Merge the siblings of every layer."""
        accounts: list[Applied | Declined] = []
        for site, siblings in self._families(find_linears(model)):
            problem = _problem(siblings)
            if problem is None:
                _merge(model, site, siblings)
                names = " + ".join(one.site for one in siblings)
                accounts.append(Applied(self.name, site, f"{names}: {siblings[0].weight.format}"))
            else:
                accounts.append(Declined(self.name, site, problem))
        remove_unused(model)
        found = sum(_role(one.site) in self.groups for one in find_linears(model))
        missing = shortfall(self.name, self.expected, found, "merged layers")
        return PassResult.of(model, [*missing, *accounts])

    def _families(self, linears: Sequence[Linear]) -> list[tuple[str, list[Linear]]]:
        """The merged site's name and its parts, wherever all parts exist."""
        by_site = {one.site: one for one in linears}
        families = []
        for merged, roles in self.groups.items():
            for one in linears:
                prefix = one.site.removesuffix(roles[0])
                siblings = [by_site[prefix + role] for role in roles if prefix + role in by_site]
                if _role(one.site) == roles[0] and len(siblings) == len(roles):
                    families.append((prefix + merged, siblings))
        return families


def _role(site: str) -> str:
    return site.rpartition(".")[2]


def _problem(siblings: Sequence[Linear]) -> str | None:
    first = siblings[0]
    for one in siblings[1:]:
        if one.matmul.inputs[0] is not first.matmul.inputs[0]:
            return f"{one.site} and {first.site} read different inputs"
        if one.weight.format != first.weight.format:
            return f"{one.site} is stored as {one.weight.format}, {first.site} as {first.weight.format}"
    return None


def _merge(model: ir.Model, site: str, siblings: Sequence[Linear]) -> None:
    merged = _merged_linear(model, site, siblings)
    before, rows = siblings[0].matmul, [one.weight.shape[0] for one in siblings]
    sizes = GraphBuilder.extend(model.graph, before=before).integers(rows)
    inputs = [merged.outputs[0], sizes]
    split = insert(before, "Split", inputs, {"axis": -1}, name=f"{site}.split", outputs=len(rows))
    for linear, part in zip(siblings, split.outputs, strict=True):
        take_over(linear.output, part)


def _merged_linear(model: ir.Model, site: str, siblings: Sequence[Linear]) -> ir.Node:
    first = siblings[0]
    weight = store_weight(model, first.matmul, f"{site}.weight", _joined(siblings), first.weight.block)
    turned = insert(first.matmul, "Transpose", [weight], {"perm": [1, 0]}, name=f"{site}.transposed")
    merged = insert(first.matmul, "MatMul", [first.matmul.inputs[0], turned.outputs[0]], name=site)
    merged.metadata_props[SITE] = site
    width, columns = sum(one.weight.shape[0] for one in siblings), first.weight.shape[1]
    turned.outputs[0].type, turned.outputs[0].shape = weight.type, ir.Shape([columns, width])
    merged.outputs[0].type = first.output.type
    if first.output.shape is not None:
        merged.outputs[0].shape = ir.Shape([*first.output.shape[:-1], width])
    return merged


def _joined(siblings: Sequence[Linear]) -> dict[str, ir.TensorProtocol]:
    """The siblings' stored tensors, each kind joined along N."""
    if not siblings[0].weight.quantized:
        return {"plain": join_rows([tensor_of(one.weight.stored.codes) for one in siblings])}
    parts = {part: [getattr(one.weight.stored, part) for one in siblings] for part in PARTS}
    return {
        part: join_rows([tensor_of(one) for one in values])
        for part, values in parts.items()
        if values[0] is not None
    }
