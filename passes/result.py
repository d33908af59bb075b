"""What a pass reports: what it applied, with certificates, and what it declined, with reasons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir


@dataclass(frozen=True)
class Certificate:
    """Evidence that a rewrite kept the meaning, or how far it moved it."""

    check: str  # what was compared, e.g. "relative error of the dequantised weight"
    probe: str  # on which inputs, e.g. "all 576×1536 elements"
    error: float
    tolerance: float  # infinite where the step is lossy on purpose

    @property
    def holds(self) -> bool:
        """Whether the measured error is within the tolerance."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Applied:
    """One rewrite that happened."""

    pass_name: str
    site: str
    detail: str
    certificate: Certificate | None = None


@dataclass(frozen=True)
class Declined:
    """One rewrite that was looked for, or asked for, and did not happen."""

    pass_name: str
    site: str
    reason: str


@dataclass(frozen=True)
class PassResult:
    """The model after a pass, and the pass's account of itself."""

    model: ir.Model
    applied: tuple[Applied, ...] = ()
    declined: tuple[Declined, ...] = ()

    @staticmethod
    def of(model: ir.Model, accounts: Iterable[Applied | Declined]) -> PassResult:
        """The result with `accounts` sorted into applied and declined, each in the given order."""
        told = tuple(accounts)
        applied = tuple(one for one in told if isinstance(one, Applied))
        return PassResult(model, applied, tuple(one for one in told if isinstance(one, Declined)))

    @property
    def modified(self) -> bool:
        """Whether the pass changed anything."""
        return bool(self.applied)


def shortfall(pass_name: str, expected: int | None, found: int, what: str) -> tuple[Declined, ...]:
    """What to report where fewer than `expected` are found, so that no rewrite fails to match in silence."""
    if expected is None or found >= expected:
        return ()
    return (Declined(pass_name, "model", f"expected {expected} {what}, found {found}"),)


class Pass(Protocol):
    """A rewrite of a whole model, in place."""

    @property
    def name(self) -> str:
        """The pass's name in reports."""

    def __call__(self, model: ir.Model) -> PassResult:
        """Rewrite `model` and say what was done."""


def run_passes(model: ir.Model, passes: Sequence[Pass]) -> PassResult:
    """Run `passes` in order and join their accounts."""
    applied: list[Applied] = []
    declined: list[Declined] = []
    for one in passes:
        result = one(model)
        model = result.model
        applied += result.applied
        declined += result.declined
    return PassResult(model, tuple(applied), tuple(declined))
