"""Why a node of a graph runs where it runs, and what was measured."""

from __future__ import annotations

from collections import Counter
from typing import Any

from intaglio.compiler.manifest import Manifest

CONSTANT = "Constant"
ELSEWHERE, VIEW = "onnxruntime", "view"


def operator_fact(manifest: Manifest, name: str) -> str:
    """For a node of a graph: its operator, who runs it and why; nothing for other names."""
    operator = manifest.operators.get(name)
    if operator is None:
        return ""
    if operator == CONSTANT:
        return "a constant"
    kernels = manifest.partition.get("kernels", {})
    if not kernels:
        return f"operator {operator}, run by onnxruntime: {kept_fact(manifest)}"
    kind = kernels.get(name)
    if kind == ELSEWHERE:
        return (
            f"operator {operator}, run by onnxruntime between our kernels: there is none for it in this form"
        )
    if kind == VIEW:
        return f"operator {operator}: nothing is computed or moved, what follows reads with other strides"
    if kind is None:
        return (
            f"operator {operator}: a constant for the shapes compiled for, or part of another node's kernel"
        )
    return f"operator {operator}, run by a kernel of ours ({kind}): {kept_fact(manifest)}"


def kept_fact(manifest: Manifest) -> str:
    """Which way of running the whole graph was kept, and by what figures."""
    partition = manifest.partition
    kept = next((one for one in partition.get("candidates", ()) if one["name"] == partition["kept"]), None)
    if kept is None:
        return "nothing was measured"
    if kept["relative"] is None:
        return f"{kept['name']}, {kept['reason']}"
    first = partition["candidates"][0]["name"]
    return f"{kept['name']} took {kept['relative']:.2f} × the time of {first}"


def candidate_facts(manifest: Manifest) -> list[str]:
    """A line for each way that was tried."""
    return [_candidate(one) for one in manifest.partition.get("candidates", ())]


def kernel_fact(manifest: Manifest) -> str:
    """How many nodes run in kernels of which kinds; nothing where onnxruntime runs the graph whole."""
    kinds = Counter(manifest.partition.get("kernels", {}).values())
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def shapes_fact(manifest: Manifest) -> str:
    """The calls that were measured, by the shapes of their inputs."""
    calls = manifest.partition.get("shapes", ())
    shown = ("; ".join(f"{name} {list(shape)}" for name, shape in call.items()) for call in calls)
    return " | ".join(shown) or "none"


def _candidate(one: dict[str, Any]) -> str:
    if one["relative"] is None:
        return f"{one['name']}: {one['reason']}"
    times = ", ".join(f"{1e3 * seconds:.3f}" for seconds in one["seconds"])
    error = "" if one["error"] is None else f", largest difference {one['error']:.1e}"
    return f"{one['name']}: {times} ms, {one['relative']:.2f} × the first{error}; {one['reason']}"
