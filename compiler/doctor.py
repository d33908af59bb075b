"""What this machine has for compiling and running, what it lacks, and what to do about it."""

from __future__ import annotations

import dataclasses
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

from intaglio.compiler.errors import IntaglioError
from intaglio.compiler.settings import available_cpus
from intaglio.cost_models import NAMED_TARGETS, Target, resolve_target

Status = Literal["ok", "note", "problem"]
PYTHON = (3, 11)
MEMORY = 2e9  # bytes to compile a small model with torch and TVM loaded
DISTRIBUTION = "intaglio"
MARKS = {"ok": "✓", "note": "–", "problem": "✗"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `remedy` says what to do, where something should be done."""

    subject: str
    status: Status
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings, and the description of this machine as a target, if it can be one."""

    findings: tuple[Finding, ...]
    target: Target | None = None

    @property
    def healthy(self) -> bool:
        """Whether nothing stands in the way."""
        return all(one.status != "problem" for one in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The findings, whether all is well, and the target, as a file that `compile` takes describes it."""
        target = None if self.target is None else dataclasses.asdict(self.target)
        findings = [dataclasses.asdict(one) for one in self.findings]
        return {"healthy": self.healthy, "target": target, "findings": findings}

    def to_text(self) -> str:
        """A line for each finding, and at the end what to do."""
        lines = [f"{MARKS[one.status]} {one.subject}: {one.detail}" for one in self.findings]
        remedies = [one.remedy for one in self.findings if one.remedy]
        advice = ["", "What to do:", *(f"  {one}" for one in remedies)] if remedies else ["", "All is well."]
        return "\n".join([*lines, *advice])


def diagnose() -> Diagnosis:
    """Look at everything; nothing heavy is imported."""
    processor, target = _processor()
    parts = (_python(), *_packages(), _compiler(), processor, _memory(), _graphics())
    return Diagnosis(parts, target)


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info >= PYTHON:
        return Finding("Python", "ok", f"{version}, {sys.executable}")
    return Finding("Python", "problem", version, "Install Python 3.11 or later.")


def _packages() -> Iterator[Finding]:
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        yield Finding("packages", "problem", "intaglio is not installed", "Run: pip install --editable .")
        return
    for requirement in requirements:
        if ";" not in requirement:  # extras are a matter of choice
            yield check_requirement(requirement)


def check_requirement(requirement: str) -> Finding:
    """Whether the package that `requirement` (`name>=1.2,<3`) asks for is there in a version it allows."""
    found = re.match(r"[\w.-]+", requirement)
    assert found, f"{requirement!r} names no package"
    name, bounds = found[0], requirement[found.end() :].strip()
    remedy = f"Run: pip install '{requirement}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, "problem", "not installed", remedy)
    if not all(_allows(bound.strip(), version) for bound in bounds.split(",") if bound):
        return Finding(name, "problem", f"{version}, and needed is {bounds}", remedy)
    return Finding(name, "ok", version)


def _allows(bound: str, version: str) -> bool:
    found = re.fullmatch(r"(==|>=|<=|<|>)\s*(\S+)", bound)
    assert found, f"{bound!r} is no bound that pyproject.toml uses"
    have, need = _numbers(version), _numbers(found[2])
    length = max(len(have), len(need))
    have, need = have + (0,) * (length - len(have)), need + (0,) * (length - len(need))
    return {"==": have == need, ">=": have >= need, "<=": have <= need, "<": have < need, ">": have > need}[
        found[1]
    ]


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, its local part (`+cpu`) left out."""
    return tuple(int(one) for one in re.findall(r"\d+", version.partition("+")[0]))


def _compiler() -> Finding:
    from intaglio.backends.tvm.codegen import c_compiler

    try:
        return Finding("C compiler", "ok", c_compiler())
    except IntaglioError as error:
        return Finding("C compiler", "problem", str(error), "Install gcc or clang, or name one in CC.")


def _processor() -> tuple[Finding, Target | None]:
    cpus = f"{platform.machine()}, {available_cpus()} CPUs for this process"
    try:
        target = resolve_target("cpu")
    except IntaglioError as error:
        remedy = "Use an x86-64 with AVX2, or an aarch64."
        return Finding("processor", "problem", f"{cpus}: {error}", remedy), None
    names = ", ".join(one.name for one in NAMED_TARGETS if not one.missing_here())
    detail = f"{cpus}; code for {target.cpu}, kernels: {target.instructions}; runs {names}"
    return Finding("processor", "ok", detail), target


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    detail = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    if memory.available < MEMORY:
        return Finding("memory", "problem", detail, f"Free memory: compiling wants {MEMORY / 1e9:.0f} GB.")
    return Finding("memory", "ok", detail)


def _graphics() -> Finding:
    if tool := shutil.which("nvidia-smi"):
        return Finding("GPU", "note", f"NVIDIA tools at {tool}; this version compiles for CPUs alone")
    return Finding("GPU", "note", "none found; none is needed")
