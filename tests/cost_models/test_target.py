"""Targets: names, JSON descriptions, and what machines lack."""

from __future__ import annotations

import dataclasses
import itertools
import json
import platform

import pytest

from intaglio.compiler.errors import TargetError
from intaglio.cost_models import NAMED_TARGETS, Target, host_target, resolve_target
from intaglio.cost_models import target as target_module
from intaglio.cost_models.target import INSTRUCTIONS, host_features
from intaglio.kernels.instructions import FAMILIES

AVX2, AVX512, VNNI, AMX, ARM, I8MM = (
    resolve_target(f"cpu:{name}")
    for name in ("x86-64-v3", "avx512", "avx512-vnni", "amx", "aarch64", "aarch64-i8mm")
)


@pytest.mark.parametrize("target", NAMED_TARGETS, ids=lambda one: one.name)
def test_round_trip(target):
    assert Target.from_json(target.to_json()) == target
    assert resolve_target(target.name) == target
    assert resolve_target(target) is target


def test_a_description_in_a_file(tmp_path):
    path = tmp_path / "mine.json"
    mine = dataclasses.replace(VNNI, name="mine", cpu="znver4")
    path.write_text(mine.to_json())
    assert resolve_target(path) == resolve_target(str(path)) == mine


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "mine.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TargetError, match=r"mine\.json cannot be read"):
        resolve_target(path)


@pytest.mark.parametrize("name", ["gpu", "cpu:sparc", "", "cpu:", "missing.json"])
def test_unknown_names_list_the_known(name):
    with pytest.raises(TargetError, match=f"target: '{name}' is unknown") as caught:
        resolve_target(name)
    assert all(one.name in str(caught.value) for one in NAMED_TARGETS)


@pytest.mark.parametrize("text", ["", "[]", "3", "null", "{}", '{"name": "x"}', '{"surplus": 1}'])
def test_what_is_no_description(text):
    with pytest.raises(TargetError, match="not a target description"):
        Target.from_json(text)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": 3}, "name must be a text"),
        ({"features": "avx2"}, "features must be a list of texts"),
        ({"c_flags": [1]}, "c_flags must be a list of texts"),
        ({"llvm_features": "+dotprod"}, "llvm_features must be a list of texts"),
        ({"instructions": "avx10"}, "instructions 'avx10' are not among plain, avx2, avx-vnni"),
    ],
)
def test_values_of_a_description(change, problem):
    with pytest.raises(TargetError, match=problem):
        Target.from_json(json.dumps(json.loads(AVX2.to_json()) | change))


def test_all_problems_at_once():
    values = json.loads(AVX2.to_json()) | {"cpu": None, "features": 1, "instructions": "x"}
    with pytest.raises(TargetError, match=r"cpu must be .*, features must be .*, instructions 'x'"):
        Target.from_json(json.dumps(values))


def test_what_a_machine_lacks():
    assert AVX2.missing_on(frozenset(AVX2.features), "x86_64") == ()
    assert AVX2.missing_on(frozenset(AVX2.features) - {"fma", "bmi2"}, "x86_64") == ("fma", "bmi2")
    assert ARM.missing_on(frozenset(), "aarch64") == ()
    assert ARM.missing_on(frozenset(), "x86_64") == ("aarch64",)
    assert AVX2.missing_on(frozenset({"asimd"}), "aarch64")[0] == "x86_64"


def test_wider_targets_need_what_narrower_ones_need():
    for machine in ("x86_64", "aarch64"):
        targets = [
            one for one in NAMED_TARGETS if one.triple.startswith(machine) and "avx-vnni" not in one.name
        ]
        for narrow, wide in itertools.pairwise(targets):
            assert set(narrow.features) - {"avx_vnni"} < set(wide.features)


@pytest.mark.parametrize(
    ("machine", "features", "expected"),
    [
        ("x86_64", VNNI.features, VNNI),
        ("x86_64", AVX2.features, AVX2),
        ("x86_64", VNNI.features[:-1], AVX512),
        ("x86_64", VNNI.features[1:], AVX2),
        ("x86_64", AMX.features, AMX),
        ("x86_64", tuple(set(VNNI.features) - {"movbe"}), ("movbe",)),
        ("aarch64", ("asimd",), ARM),
        ("aarch64", ("asimd", "asimddp", "i8mm"), I8MM),
        ("aarch64", ("asimd", "i8mm"), ARM),
        ("x86_64", ("sse2",), AVX2.features),
        ("riscv64", (), AVX2.features),
    ],
)
def test_the_host(monkeypatch, machine, features, expected):
    """The widest target that the machine has the features for."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(target_module, "host_features", lambda: frozenset(features))
    if isinstance(expected, Target):
        assert host_target() == resolve_target("cpu") == dataclasses.replace(expected, name="cpu")
        assert host_target().missing_here() == ()
        return
    with pytest.raises(TargetError, match=", ".join(expected)):
        host_target()


def test_this_machine():
    assert host_features()
    assert host_target().missing_here() == ()


def test_instruction_families_are_those_of_the_kernels():
    assert {one.name for one in FAMILIES} == set(INSTRUCTIONS)
    assert all(target.instructions in INSTRUCTIONS for target in NAMED_TARGETS)
