"""Experts that a token did not choose are skipped in decoding.

A mixture is traced densely: `… + w₁ · expert₁(x) + w₂ · expert₂(x)`, with weights that are zero for experts
not chosen. What is computed for nothing but such a product is guarded by its weight: for one token, whose
weight is zero, it need not be computed, whatever its buffer then holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations

import onnx_ir as ir

from intaglio.backends.tvm.regions import (
    GatedRegion,
    LinearRegion,
    Region,
    RowOperand,
    RowRegion,
    inputs_of,
    outputs_of,
)

Guards = Mapping[int, RowOperand]  # `id` of a region → the column that is zero where it may be skipped


def guards_of(regions: Sequence[Region]) -> Guards:
    """The guards of all regions that have one."""
    makers = {value: region for region in regions for value in outputs_of(region)}
    readers = Counter(value for region in regions for value in inputs_of(region))
    guards: dict[int, RowOperand] = {}
    for region in regions:
        for weight, value in _weighted(region) if isinstance(region, RowRegion) else ():
            pending = [value]
            while pending:
                maker = makers.get(pending.pop())
                if maker is None or not _can_be_skipped(maker):
                    continue
                if all(readers[one] == 1 for one in outputs_of(maker)):
                    guards[id(maker)] = weight
                    pending += inputs_of(maker)
    return guards


def guards_first(regions: Sequence[Region], guards: Guards) -> list[Region]:
    """`regions` in an order in which guards are computed before what they guard, otherwise as they were."""
    makers = {value: region for region in regions for value in outputs_of(region)}
    done: set[int] = set()
    ordered: list[Region] = []
    pending = list(reversed(regions))
    while pending:
        region = pending[-1]
        needed = [*inputs_of(region), *([guards[id(region)].value] if id(region) in guards else [])]
        missing = [makers[one] for one in needed if one in makers and id(makers[one]) not in done]
        if missing:
            pending += missing
            continue
        pending.pop()
        if id(region) not in done:
            done.add(id(region))
            ordered.append(region)
    return ordered


def _can_be_skipped(region: Region) -> bool:
    """Whether `region` does nothing but make its output."""
    if isinstance(region, LinearRegion):
        return region.residual is None
    return isinstance(region, GatedRegion | RowRegion)


def _weighted(region: RowRegion) -> Iterator[tuple[RowOperand, ir.Value]]:
    """(weight, value) of products in which one column of a row weighs a row that nothing else uses."""
    uses = Counter(argument for step in region.steps for argument in step.arguments)
    for step in region.steps:
        for weight, value in permutations(step.arguments) if step.op == "multiply" else ():
            column, row = _operand(region, weight), _operand(region, value)
            if column is None or row is None or not column.broadcast or row.broadcast:
                continue
            if uses[value] == 1 and _only_use(region, row):
                yield column, row.value


def _operand(region: RowRegion, step: int) -> RowOperand | None:
    found = region.steps[step]
    return region.operands[found.index] if found.op == "input" else None


def _only_use(region: RowRegion, operand: RowOperand) -> bool:
    return sum(one.value is operand.value for one in region.operands) == 1
