"""What the passes did and declined, kept with the compiled model without keeping its graph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from intaglio.passes.result import Applied, Certificate, Declined, PassResult


@dataclass(frozen=True)
class CertificateEntry:
    """A certificate as in `intaglio.passes.result`; an infinite tolerance is `None`."""

    check: str
    probe: str
    error: float
    tolerance: float | None

    @property
    def holds(self) -> bool:
        """Whether the measured error is within the tolerance."""
        return self.tolerance is None or self.error <= self.tolerance


@dataclass(frozen=True)
class AppliedEntry:
    """One rewrite that happened."""

    pass_name: str
    site: str
    detail: str
    certificate: CertificateEntry | None


@dataclass(frozen=True)
class DeclinedEntry:
    """One rewrite that was looked for, or asked for, and did not happen."""

    pass_name: str
    site: str
    reason: str


@dataclass(frozen=True)
class Account:
    """Everything that all passes reported, in order."""

    applied: tuple[AppliedEntry, ...] = ()
    declined: tuple[DeclinedEntry, ...] = ()

    @classmethod
    def of(cls, results: Iterable[PassResult]) -> Account:
        """The accounts of `results`, joined."""
        results = tuple(results)
        applied = tuple(_applied(one) for result in results for one in result.applied)
        declined = tuple(_declined(one) for result in results for one in result.declined)
        return cls(applied, declined)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Account:
        """From what `dataclasses.asdict` gives."""
        applied = tuple(
            AppliedEntry(
                **{**one, "certificate": one["certificate"] and CertificateEntry(**one["certificate"])}
            )
            for one in values["applied"]
        )
        return cls(applied, tuple(DeclinedEntry(**one) for one in values["declined"]))


def _applied(one: Applied) -> AppliedEntry:
    certificate = None if one.certificate is None else _certificate(one.certificate)
    return AppliedEntry(one.pass_name, one.site, one.detail, certificate)


def _certificate(one: Certificate) -> CertificateEntry:
    infinite = one.tolerance == float("inf")  # JSON has no infinity
    return CertificateEntry(
        one.check, one.probe, float(one.error), None if infinite else float(one.tolerance)
    )


def _declined(one: Declined) -> DeclinedEntry:
    return DeclinedEntry(one.pass_name, one.site, one.reason)
