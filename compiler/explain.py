"""Why a site or node of a compiled model is as it is."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from intaglio.compiler.account import Account, AppliedEntry, CertificateEntry, DeclinedEntry
from intaglio.compiler.errors import OptionError
from intaglio.compiler.explain_graph import operator_fact
from intaglio.compiler.manifest import Manifest

NEAREST = 5
NO_SITE = "  index arithmetic, which the runtime does itself"


@dataclass(frozen=True)
class Explanation:
    """Everything known of one name."""

    name: str
    sites: tuple[dict[str, Any], ...]  # the compiled sites that compute it
    applied: tuple[AppliedEntry, ...]
    declined: tuple[DeclinedEntry, ...]
    operator: str = ""  # of a node of a graph: what it is, who runs it, and why

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return dataclasses.asdict(self)

    def to_text(self) -> str:
        """For reading, a fact a line."""
        return "\n".join([self.name, *(self._lines() or [NO_SITE])])

    def __str__(self) -> str:
        return self.to_text()

    def _lines(self) -> list[str]:
        return list(self._facts())

    def _facts(self) -> Iterator[str]:
        if self.operator:
            yield f"  {self.operator}"
        for site in self.sites:
            facts = "; ".join(
                f"{key.replace('_', ' ')} {fact_text(one)}"
                for key, one in site.items()
                if key != "site" and one not in ("", 0, [], ())
            )
            yield f"  runs in {site['site']}: {facts}"
        for entry in self.applied:
            yield f"  {entry.pass_name} at {entry.site}: {entry.detail}"
            if entry.certificate is not None:
                yield f"    {certificate_text(entry.certificate)}"
        for declined in self.declined:
            yield f"  {declined.pass_name} declined at {declined.site}: {declined.reason}"


def explain(manifest: Manifest, name: str) -> Explanation:
    """What the passes did and declined at `name`, or at what it became part of. Raises `OptionError`."""
    account: Account = manifest.account
    homes = {name, *_merged_into(account, name), manifest.nodes.get(name, name)}
    sites = tuple(one for one in manifest.sites if one["site"] in homes)
    # A stretch of the model, such as layers.3, is explained by all that lies in it.
    applied = tuple(one for one in account.applied if one.site in homes or _within(one.site, name))
    declined = tuple(one for one in account.declined if one.site in homes or _within(one.site, name))
    sites = sites or tuple(one for one in manifest.sites if _within(one["site"], name))
    if not (sites or applied or declined or name in manifest.nodes):
        raise OptionError(
            f"explain: there is no {name!r}; names near it: {', '.join(_near(manifest, name))}."
        )
    return Explanation(name, sites, applied, declined, operator_fact(manifest, name))


def known_names(manifest: Manifest) -> list[str]:
    """Every name that `explain` takes, merged layers apart."""
    account = manifest.account
    names = [str(one["site"]) for one in manifest.sites]
    passes = [*(one.site for one in account.applied), *(one.site for one in account.declined)]
    return sorted({*names, *passes, *manifest.nodes})


def certificate_text(certificate: CertificateEntry) -> str:
    """What was checked, on what, and the outcome."""
    limit = "lossy on purpose" if certificate.tolerance is None else f"tolerance {certificate.tolerance:.3g}"
    verdict = "" if certificate.holds else ", exceeded"
    return f"{certificate.check} on {certificate.probe}: {certificate.error:.3g} ({limit}{verdict})"


def _merged_into(account: Account, name: str) -> set[str]:
    """Sites whose making mentions `name`: what a merged projection became."""
    if not name:
        return set()
    whole = re.compile(rf"(?<![\w.]){re.escape(name)}(?![\w]|\.\w)")
    return {one.site for one in account.applied if whole.search(one.detail)}


def _within(site: str, name: str) -> bool:
    return site.startswith(f"{name}.")


def _near(manifest: Manifest, name: str) -> list[str]:
    names = known_names(manifest)
    return difflib.get_close_matches(name, names, NEAREST, cutoff=0.0) or names[:NEAREST]


def fact_text(value: object) -> str:
    """A fact about a site for people: shapes as 3 × 4, lists with commas."""
    if isinstance(value, list | tuple):
        return (
            " × ".join(map(str, value))
            if all(isinstance(one, int) for one in value)
            else ", ".join(map(str, value))
        )
    return f"{value:,}" if isinstance(value, int) else str(value)
