"""Models for other processors: refused with what is lacking and what to do, before anything is built."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

import intaglio
from intaglio.compiler.account import Account
from intaglio.compiler.artifact import write_manifest
from intaglio.compiler.doctor import diagnose
from intaglio.compiler.manifest import REQUIRED, Manifest, Source
from intaglio.cost_models import NAMED_TARGETS, Target, resolve_target
from intaglio.cost_models import target as target_module

ALL = pytest.mark.parametrize("target", NAMED_TARGETS, ids=lambda one: one.name)


@pytest.fixture(params=["x86_64", "aarch64", "riscv64"])
def bare_machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """As if this were a machine of some architecture without any extension."""
    monkeypatch.setattr(platform, "machine", lambda: request.param)
    monkeypatch.setattr(target_module, "host_features", lambda: frozenset())
    return str(request.param)


def lacking(target: Target, machine: str) -> tuple[str, ...]:
    architecture = target.triple.split("-")[0]
    return target.features if machine == architecture else (architecture, *target.features)


def artifact(target: Target, folder: Path) -> Path:
    """A folder as `save` leaves it, whose code is no library."""
    for name in REQUIRED["decoder"]:
        (folder / name).write_bytes(b"anything")
    manifest = Manifest(
        source=Source("tiny.gguf", 12, "ab" * 32),
        architecture={},
        target=json.loads(target.to_json()),
        plan={},
        workload={},
        context=256,
        sites=(),
        account=Account((), ()),
        seconds={},
        peak_memory_bytes=0,
        files={},
    )
    write_manifest(folder, manifest)
    return folder


@ALL
def test_an_artefact_from_elsewhere(target: Target, bare_machine: str, tmp_path: Path) -> None:
    folder = artifact(target, tmp_path)
    if not (missing := lacking(target, bare_machine)):
        pytest.skip("any machine of this architecture will do")
    with pytest.raises(intaglio.ForeignArtifactError, match=f"lacks {', '.join(missing)}: .*recompile=True"):
        intaglio.load(folder, threads=1)


@ALL
def test_compiling_for_elsewhere(target: Target, bare_machine: str, tiny_gguf: Callable[..., Path]) -> None:
    if not (missing := lacking(target, bare_machine)):
        pytest.skip("any machine of this architecture will do")
    with pytest.raises(intaglio.TargetError, match=f"lacks {', '.join(missing)} to run .*recompile=True"):
        intaglio.compile(tiny_gguf(), target=target.name)


def test_the_doctor_names_the_targets_that_run_here() -> None:
    (processor,) = (one for one in diagnose().findings if one.subject == "processor")
    runs = processor.detail.partition("; runs ")[2].split(", ")
    assert runs == [one.name for one in NAMED_TARGETS if not one.missing_here()]
    assert resolve_target(runs[-1]).instructions == resolve_target("cpu").instructions


def test_the_page_lists_every_target_and_its_example_is_one() -> None:
    text = (Path(__file__).parents[2] / "docs" / "targets.md").read_text()
    assert [one.name for one in NAMED_TARGETS if f"| `{one.name}` |" not in text] == []
    example = Target.from_json(text.partition("```json\n")[2].partition("```")[0])
    assert example.instructions == "avx512-bf16"
