"""The invariants of the IR, in two tables; `check` is called between passes under test and after tracing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from intaglio.compiler.errors import InvariantError
from intaglio.compiler.ir import call_rules, rules


@dataclass(frozen=True)
class Invariant:
    """One rule: `violations` yields a sentence for every place that breaks it."""

    name: str
    violations: Callable[[ir.Model], Iterator[str]]


def check(model: ir.Model, *, decoder: bool = True) -> None:
    """Raise `InvariantError` that lists every broken invariant of `INVARIANTS`.

    With `decoder=False` those of `GRAPH_INVARIANTS`, which allow what onnxruntime runs beyond our IR.
    """
    table = INVARIANTS if decoder else GRAPH_INVARIANTS
    problems = [f"{one.name}: {found}" for one in table for found in one.violations(model)]
    if problems:
        listed = "\n  - ".join(problems)
        raise InvariantError(f"[invariants] {len(problems)} broken; fix the last pass:\n  - {listed}")


_OF_ALL = (
    Invariant("values are defined before use", rules.values_are_defined_before_use),
    Invariant("outputs are produced", rules.outputs_are_produced),
    Invariant("every node is used", rules.no_dead_nodes),
    Invariant("initialisers have values of the declared shape", rules.initializers_have_values),
    Invariant("functions hold no initialisers", rules.functions_hold_no_initializers),
    Invariant("names are unique", rules.names_are_unique),
)

# Of decoders, which are ours from end to end.
INVARIANTS = (
    *_OF_ALL,
    Invariant("opset 25 or later", rules.opset_is_recent),
    Invariant("calls resolve", call_rules.calls_resolve),
    Invariant("calls fit their functions", call_rules.calls_fit_their_functions),
    Invariant("no subgraphs", rules.no_subgraphs),
    Invariant("scales fit their codes", rules.blocks_agree),
)

# Of any other graph: what passes do not know stays as it came, for onnxruntime to run.
GRAPH_INVARIANTS = (
    *_OF_ALL,
    Invariant("opset 25 or later, unless kept with a reason", rules.opset_is_recent_or_kept),
    Invariant("calls resolve or run", call_rules.calls_resolve_or_run),
    Invariant("calls fit our functions", call_rules.calls_fit_our_functions),
)
