"""Plans: the short form, JSON, and what is refused."""

from __future__ import annotations

import pytest

from intaglio.compiler.errors import OptionError
from intaglio.compiler.plan import DEFAULT_CACHE, ActivationFormat, Plan, Treatment, WeightFormat

TREATMENTS = {
    "keep": Treatment(None, ActivationFormat(32)),
    "keep:a16": Treatment(None, None),
    "keep:a8g16": Treatment(None, ActivationFormat(16)),
    "int4-g32": Treatment(WeightFormat(4, 32), ActivationFormat(32)),
    "int4-g64-asymmetric": Treatment(WeightFormat(4, 64, "asymmetric"), ActivationFormat(32)),
    "int4-g32-minimum:a16": Treatment(WeightFormat(4, 32, "minimum"), None),
    "int8-channel": Treatment(WeightFormat(8, None), ActivationFormat(32)),
    "int8-channel-symmetric:a8g64": Treatment(WeightFormat(8, None), ActivationFormat(64)),
    "fp32": Treatment("fp32", None),
    "bf16:a16": Treatment("bf16", None),
}


@pytest.mark.parametrize(("text", "treatment"), TREATMENTS.items())
def test_the_grammar(text: str, treatment: Treatment) -> None:
    assert Treatment.parse(text) == treatment
    assert Treatment.parse(str(treatment)) == treatment
    assert Plan.parse(text) == Plan(treatment)


def test_sites_and_default() -> None:
    plan = Plan.parse("int4-g32, lm_head = int8-channel:a16, layers.0.mlp.down_proj=fp32")
    assert plan["lm_head"] == Treatment(WeightFormat(8, None), None)
    assert plan["layers.0.mlp.down_proj"] == Treatment("fp32", None)
    assert plan["layers.9.mlp.down_proj"] == plan.default == Treatment.parse("int4-g32")
    assert Plan.parse("lm_head=fp32").default == Plan().default == Treatment.parse("keep")


@pytest.mark.parametrize(
    "text",
    [
        "keep",
        "bf16, lm_head=keep",
        "int4-g128-minimum:a8g64, a.b=int8-g64, c=fp32",
        "keep, a=fp32, cache=int8",
    ],
)
def test_round_trips(text: str) -> None:
    plan = Plan.parse(text)
    assert Plan.from_json(plan.to_json()) == plan
    assert Plan.parse(str(plan)) == plan
    assert hash(Plan.from_json(plan.to_json())) == hash(plan)


def test_json_is_for_people() -> None:
    assert Plan.parse("int4-g32, b=fp32, a=keep").to_json().split() == [
        "{", '"version":', "1,", '"default":', '"int4-g32:a8g32",', '"sites":', "{",
        '"a":', '"keep:a8g32",', '"b":', '"fp32"', "}", "}",
    ]  # fmt: skip


def test_a_plan_is_frozen() -> None:
    sites = {"a": Treatment()}
    plan = Plan(sites=sites)
    sites["b"] = Treatment()
    assert list(plan.sites) == ["a"]
    with pytest.raises(TypeError):
        plan.sites["c"] = Treatment()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int5-g32", "bits is 5; use 4 or 8"),
        ("int4-g48", "group is 48"),
        ("int4-g32-log", "'log' is not a scheme"),
        ("int4", "'int4' is not a weight format"),
        ("", "'' is not a weight format"),
        ("keep:a4", "'a4' is not an activation format"),
        ("keep:", "'' is not an activation format"),
        ("keep:a8g0", "group is 0"),
        ("int4-g32:a8g64", "activation group 64 does not divide the weight group 32"),
        ("fp32:a8g32", "fp32 weights take no a8g32"),
        ("keep, int4-g32", "'int4-g32' needs a site"),
        ("keep, a=fp32, a=bf16", "site 'a' is empty or named twice"),
        ("=fp32", "site '' is empty or named twice"),
    ],
)
def test_bad_short_forms_are_refused(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Plan.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not list"),
        ('{"version": 1, "site": {}}', r"unknown keys \['site'\]"),
        ('{"default": "keep"}', "version is None"),
        ('{"version": 2}', "version is 2"),
        ('{"version": 1, "sites": []}', "must be strings"),
        ('{"version": 1, "sites": {"a": 4}}', "must be strings"),
        ('{"version": 1, "default": "int3-g32"}', "bits is 3"),
    ],
)
def test_bad_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Plan.from_json(text)


@pytest.mark.parametrize("cache", ["fp32", "fp16", "bf16", "int8"])
def test_the_cache(cache: str) -> None:
    plan = Plan.parse(f"int4-g32, cache = {cache}, lm_head=keep")
    assert plan.cache == cache
    assert dict(plan.sites) == {"lm_head": Treatment.parse("keep")}
    assert plan.treatments[:3] == (plan.sites, plan.default, cache)
    assert Plan.parse(f"cache={cache}") == Plan(cache=cache)


def test_left_out_the_cache_is_the_usual_one() -> None:
    assert Plan.parse("keep").cache is None
    assert Plan.parse("keep").treatments[2] == DEFAULT_CACHE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keep, cache=int4", "cache='int4'; write one of fp32, fp16, bf16, int8"),
        ("keep, cache=", "cache=''"),
        ("keep, cache=fp16, cache=fp16", "'cache' is empty or named twice"),
    ],
)
def test_other_caches_are_refused(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Plan.parse(text)


def test_a_cache_in_json_is_checked() -> None:
    with pytest.raises(OptionError, match="cache=8"):
        Plan.from_json('{"version": 1, "default": "keep", "sites": {}, "cache": 8}')


def test_whether_activations_are_rounded() -> None:
    plan = Plan.parse("keep, head=keep:a16, last=int4-g32")
    assert plan.rounds_activations(["first"], {"first"})
    assert not plan.rounds_activations(["first", "head"], {"head"})
    assert plan.rounds_activations(["head", "last"], ())
