"""The result of a race of graphs as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from paired import Ratio, Spread, across, markdown, ratio_of

THEIRS, OURS = "onnxruntime", "intaglio"


def speedups(case: Mapping[str, Any], name: str) -> list[float]:
    """How many times faster than onnxruntime, round by round."""
    return [one[THEIRS] / one[name] for one in case["rounds"]]


def page(result: Mapping[str, Any]) -> str:
    """Everything that people read."""
    machine = f"{result['machine']['processor']}; {result['threads']} threads"
    parts = [f"{machine}; milliseconds of a call: median [least – most]."]
    if result["cases"]:
        parts += [table(result["cases"]), *means(result["cases"])]
    for name, case in result["cases"].items():
        parts += [f"{name}: no {ours}: {reason}" for ours, reason in case["failed"].items()]
    parts += [f"Skipped {name}: {reason}" for name, reason in result["skipped"].items()]
    return "\n\n".join(parts)


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each model and each of ours."""
    rows = []
    for name, case in found.items():
        theirs = milliseconds(case, THEIRS)
        for ours, check in case["checks"].items():
            ratio = ratio_of([one[THEIRS] for one in case["rounds"]], [one[ours] for one in case["rounds"]])
            rows.append([name, theirs, ours, milliseconds(case, ours), str(ratio), verdict(check)])
    return markdown(["model", THEIRS, "ours", "ms", "times as fast (95 %)", "outputs"], rows)


def milliseconds(case: Mapping[str, Any], name: str) -> str:
    spread = Spread.of([one[name] * 1e3 for one in case["rounds"]])
    return f"{spread.median:.3g} [{spread.least:.3g} – {spread.most:.3g}]"


def verdict(check: Mapping[str, Any]) -> str:
    """Equal, close or neither."""
    if check["equal"]:
        return f"equal ({check['error']:.0e})"
    found = f"{check['measure']} {check['agreement']:.2%}"
    return found if check["passed"] else f"**{found}: too far**"


def means(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Geometric means over the models: of each of ours, and of the fastest that is close enough."""
    exact = across([speedups(case, OURS) for case in found.values()])
    yield f"Geometric mean of {OURS}: {exact}."
    if any(set(case["checks"]) != {OURS} for case in found.values()):
        yield f"Geometric mean of the fastest that passed: {best_mean(found)}."


def best_mean(found: Mapping[str, Mapping[str, Any]]) -> Ratio:
    """Over models, each with the fastest of ours that is equal or close; with none, it counts as 1."""
    return across([best(case) for case in found.values()])


def best(case: Mapping[str, Any]) -> list[float]:
    passed = [speedups(case, name) for name, check in case["checks"].items() if check["passed"]]
    even = [1.0] * len(case["rounds"])
    return max(passed, key=lambda one: Spread.of(one).median, default=even)
