"""The doctor finds what is there and what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from intaglio.compiler.doctor import Diagnosis, Finding, check_requirement, diagnose
from intaglio.cost_models import resolve_target


def test_this_machine_is_looked_at() -> None:
    found = {one.subject: one for one in diagnose().findings}
    assert {"Python", "numpy", "onnx-ir", "apache-tvm", "C compiler", "processor", "memory", "GPU"} <= set(
        found
    )
    assert found["numpy"].status == "ok"
    assert json.loads(json.dumps(diagnose().to_json()))["findings"]


def test_the_target_it_prints_is_one_that_compile_takes(tmp_path: Path) -> None:
    (tmp_path / "here.json").write_text(json.dumps(diagnose().to_json()["target"]))
    assert resolve_target(tmp_path / "here.json") == resolve_target("cpu")


def test_no_compiler_is_a_problem_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    diagnosis = diagnose()
    assert not diagnosis.healthy
    assert "Install gcc or clang" in diagnosis.to_text().partition("What to do:")[2]


@pytest.mark.parametrize(
    ("requirement", "status"),
    [
        ("numpy>=1.26", "ok"),
        ("numpy>=1.26,<99", "ok"),
        ("numpy<1.0", "problem"),
        ("numpy==1.0.0.post1", "problem"),
        ("no-such-package-of-ours>=1", "problem"),
    ],
)
def test_versions_are_compared(requirement: str, status: str) -> None:
    finding = check_requirement(requirement)
    assert finding.status == status
    assert bool(finding.remedy) == (status == "problem")


def test_versions_are_numbers_not_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.10.0+cpu")
    assert check_requirement("torch>=2.9,<2.11").status == "ok"
    assert check_requirement("torch==2.10").status == "ok"
    assert check_requirement("torch>=2.10.1").status == "problem"


def test_a_healthy_machine_is_told_so() -> None:
    diagnosis = Diagnosis((Finding("a", "ok", "fine"), Finding("b", "note", "none")))
    assert diagnosis.healthy
    assert diagnosis.to_text().endswith("All is well.")
