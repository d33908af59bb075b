"""What `compile` is asked for, checked before anything is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from intaglio.compiler.errors import OptionError, TargetError
from intaglio.compiler.plan import DEFAULT_PLAN, Plan
from intaglio.compiler.settings import Settings, available_cpus, resolve_plan, resolve_threads
from intaglio.compiler.workload import Workload
from intaglio.cost_models import Target

TARGET = Target("test", "generic", "x86_64", (), "plain", ())


def settings(**changed: Any) -> Settings:
    return replace(Settings.of("m.gguf", TARGET, None, None, None, None), **changed)


def architecture(context: int) -> Any:
    from intaglio.compiler.frontends.traced import DecoderArchitecture

    return DecoderArchitecture(1, 8, 8, 1, 1, 8, 8, context, True)


@pytest.mark.parametrize(
    "options", [{"prefill": 0}, {"decode": -3}, {"prefill": 1.5}, {"prefill": True}, {"batch": 0}]
)
def test_lengths_must_be_counts(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        Workload(**options)


def test_batches_have_a_limit() -> None:
    assert Workload(batch=64).batch == 64
    with pytest.raises(OptionError, match="batch=65 is more than 64 sequences"):
        Workload(batch=65)


def test_the_default_context_is_bounded() -> None:
    assert settings().context_for(architecture(2048)) == 2048
    assert settings().context_for(architecture(131072)) == 4096
    assert settings(workload=Workload(6000, 500)).context_for(architecture(131072)) == 6500
    assert settings(context=700).context_for(architecture(2048)) == 700


def test_a_context_beyond_the_model_is_refused() -> None:
    with pytest.raises(OptionError, match="exceeds the model's own of 2048"):
        settings(context=2049).context_for(architecture(2048))


def test_a_workload_beyond_the_context_is_refused() -> None:
    with pytest.raises(OptionError, match=r"512 \+ 128 tokens"):
        settings(context=639, workload=Workload()).context_for(architecture(2048))
    with pytest.raises(OptionError, match=r"the model's is 600"):
        settings(workload=Workload()).context_for(architecture(600))


@pytest.mark.parametrize(
    ("context", "lengths"), [(4096, (512, 128)), (640, (512, 128)), (128, (103, 25)), (2, (1, 1))]
)
def test_the_usual_workload_fits_the_context(context: int, lengths: tuple[int, int]) -> None:
    usual = settings().workload_for(context)
    assert (usual.prefill, usual.decode) == lengths


@pytest.mark.parametrize("context", [0, -1, 2.5, True, "512"])
def test_bad_contexts_are_refused(context: Any) -> None:
    with pytest.raises(OptionError, match="context"):
        Settings.of("m.gguf", TARGET, Workload(), None, context, None)


def test_prompts_are_computed_in_pieces_of_their_length() -> None:
    assert settings().chunk_for(4096) == 512
    assert settings(workload=Workload(40, 10)).chunk_for(4096) == 40
    assert settings(workload=Workload(5000, 10)).chunk_for(8192) == 512


def test_bad_arguments_of_other_kinds() -> None:
    with pytest.raises(OptionError, match="workload"):
        Settings.of("m.gguf", TARGET, 512, None, None, None)  # type: ignore[arg-type]
    with pytest.raises(TargetError, match="abacus"):
        Settings.of("m.gguf", "abacus", Workload(), None, None, None)
    with pytest.raises(OptionError, match="bits is 5"):
        Settings.of("m.gguf", TARGET, Workload(), "int5-g32", None, None)


def test_plans_of_all_kinds(tmp_path: Path) -> None:
    plan = Plan.parse("int4-g32, lm_head=int8-channel")
    (tmp_path / "plan.json").write_text(plan.to_json())
    assert resolve_plan(None) == DEFAULT_PLAN
    assert resolve_plan("keep") == Plan()
    assert resolve_plan(plan) is plan
    assert resolve_plan("int4-g32, lm_head=int8-channel") == plan
    assert resolve_plan(tmp_path / "plan.json") == resolve_plan(str(tmp_path / "plan.json")) == plan
    with pytest.raises(OptionError, match=r"none\.json"):
        resolve_plan(tmp_path / "none.json")


def test_threads() -> None:
    assert 1 <= resolve_threads(None) <= available_cpus()
    assert resolve_threads(1) == 1
    for threads in (0, -1, 1.0, True, 10_000):
        with pytest.raises(OptionError, match="threads"):
            resolve_threads(threads)  # type: ignore[arg-type]
