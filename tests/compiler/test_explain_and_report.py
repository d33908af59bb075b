"""Explanations and reports, from a manifest that is made up."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from intaglio.compiler.account import Account, AppliedEntry, CertificateEntry, DeclinedEntry
from intaglio.compiler.errors import OptionError
from intaglio.compiler.explain import explain, known_names
from intaglio.compiler.manifest import Manifest, Source
from intaglio.compiler.report import Report
from intaglio.compiler.report_decoder import make_report

QKV, DOWN = "layers.{}.self_attn.qkv_proj", "layers.{}.mlp.down_proj"
SITES = tuple(
    {"site": name.format(layer), "kind": "linear", "shape": [64, 32], "bytes": size}
    for layer in range(2)
    for name, size in ((QKV, 3000), (DOWN, 1000))
)
CERTIFICATE = CertificateEntry("relative error of the weight", "all 64×32 elements", 0.0625, None)
ACCOUNT = Account(
    (
        AppliedEntry(
            "merge_projections",
            QKV.format(1),
            "layers.1.self_attn.q_proj + layers.1.self_attn.k_proj + layers.1.self_attn.v_proj",
            None,
        ),
        AppliedEntry("round_weights", DOWN.format(1), "int4-g32 <b>", CERTIFICATE),
    ),
    (DeclinedEntry("round_weights", "lm_head", "the table is shared & stays"),),
)
MANIFEST = Manifest(
    source=Source("/models/tiny.gguf", 12_000_000, "ab" * 32),
    architecture={"layers": 2},
    target={"name": "cpu", "cpu": "skylake"},
    plan={"version": 1, "default": "keep:a8g32", "sites": {}},
    workload={"prefill": 512, "decode": 128, "batch": 1},
    context=256,
    sites=SITES,
    account=ACCOUNT,
    nodes={"layers.0.input_layernorm": QKV.format(0), "steps": ""},
    seconds={"trace": 0.25, "code": 3.5},
    peak_memory_bytes=1_000_000,
    files={},
)


class ProfileSession:
    capacity, threads = 40, 2

    def __init__(self) -> None:
        self.steps = 0
        self.memory = {"weights": 8_000_000, "state": 1_500_000}

    def reset(self, position: int = 0) -> None: ...

    def extend(self, tokens: Sequence[int]) -> np.ndarray:
        return np.zeros(3, np.float32)

    def profile(self, tokens: Sequence[int]) -> list[tuple[str, float]]:
        self.steps += 1
        disturbed = 1.0 if self.steps == 1 else 0.0  # the median passes over it
        return [(QKV.format(0), 0.002 + disturbed), (QKV.format(0), 0.001), (DOWN.format(0), 0.001)]


@pytest.fixture
def report() -> Report:
    program: Any = SimpleNamespace(bytes_per_token=8000)
    session: Any = ProfileSession()
    return make_report(MANIFEST, program, session, 9_000_000)


def test_a_site_is_explained() -> None:
    found = explain(MANIFEST, DOWN.format(1))
    assert [one["site"] for one in found.sites] == [DOWN.format(1)]
    assert [one.pass_name for one in found.applied] == ["round_weights"]
    text = found.to_text()
    assert "64 × 32" in text
    assert "relative error of the weight on all 64×32 elements: 0.0625 (lossy on purpose)" in text
    assert json.loads(json.dumps(found.to_json()))["name"] == DOWN.format(1)


@pytest.mark.parametrize("part", ["q_proj", "k_proj", "v_proj"])
def test_a_merged_layer_leads_to_what_it_became(part: str) -> None:
    found = explain(MANIFEST, f"layers.1.self_attn.{part}")
    assert [one["site"] for one in found.sites] == [QKV.format(1)]
    assert [one.pass_name for one in found.applied] == ["merge_projections"]


def test_what_was_declined_is_explained() -> None:
    found = explain(MANIFEST, "lm_head")
    assert "declined at lm_head: the table is shared & stays" in str(found)


def test_a_stretch_is_explained_by_what_lies_in_it() -> None:
    found = explain(MANIFEST, "layers.1")
    assert [one["site"] for one in found.sites] == [QKV.format(1), DOWN.format(1)]
    assert len(found.applied) == 2


def test_a_node_is_explained_by_the_site_that_computes_it() -> None:
    assert [one["site"] for one in explain(MANIFEST, "layers.0.input_layernorm").sites] == [QKV.format(0)]
    assert "index arithmetic" in explain(MANIFEST, "steps").to_text()


def test_every_known_name_has_an_explanation() -> None:
    for name in known_names(MANIFEST):
        assert len(explain(MANIFEST, name).to_text().splitlines()) > 1


@pytest.mark.parametrize("name", ["layers.1.mlp.down_prj", "layers.11", "q_proj", "", "layers.1.mlp.down"])
def test_other_names_are_refused_with_near_ones(name: str) -> None:
    with pytest.raises(OptionError, match=r"names near it: .*layers"):
        explain(MANIFEST, name)


def test_a_certificate_that_does_not_hold_says_so() -> None:
    from intaglio.compiler.explain import certificate_text

    assert "exceeded" in certificate_text(CertificateEntry("check", "probe", 0.2, 0.1))
    assert "exceeded" not in certificate_text(CertificateEntry("check", "probe", 0.1, 0.1))


def test_times_are_medians_of_sums(report: Report) -> None:
    times = {site.name: site.decode_seconds for site in report.sites}
    assert times == {
        QKV.format(0): pytest.approx(0.003),
        DOWN.format(0): pytest.approx(0.001),
        QKV.format(1): 0.0,
        DOWN.format(1): 0.0,
    }


def test_layers_are_told_together(report: Report) -> None:
    assert report.kinds() == {
        "layers.*.self_attn.qkv_proj": (2, 6000, pytest.approx(0.003)),
        "layers.*.mlp.down_proj": (2, 2000, pytest.approx(0.001)),
    }


def test_the_text_names_everything(report: Report) -> None:
    text = report.to_text()
    for part in ("tiny.gguf", "skylake", "keep:a8g32", "layers.*.mlp.down_proj", "lm_head", "3.8 s"):
        assert part in text


def test_memory_is_told_by_kind(report: Report) -> None:
    assert "memory with 2 threads: at most 9.5 MB (weights 8.0, state 1.5)" in report.to_text()
    assert report.to_json()["memory"] == {"weights": 8_000_000, "state": 1_500_000}


def test_the_report_is_json(report: Report) -> None:
    values = json.loads(json.dumps(report.to_json()))
    assert values["account"]["declined"][0]["site"] == "lm_head"
    assert len(values["sites"]) == 4


def test_the_page_is_well_formed_and_needs_nothing_else(report: Report, tmp_path: Path) -> None:
    page = report.to_html(tmp_path / "report.html").read_text()
    assert not re.search(r"(src|href)=|@import|url\(", page)
    assert "int4-g32 &lt;b&gt;" in page
    svg = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    widths = [float(one.attrib["width"]) for one in svg.iter("rect")]
    # Bytes and time of two kinds: 3/4 and 1/4 each.
    assert len(widths) == 4
    assert widths[0] == pytest.approx(3 * widths[2])
    assert widths[1] == pytest.approx(3 * widths[3])
    ElementTree.fromstring("<page>" + "".join(re.findall(r"<table>.*?</table>", page, re.DOTALL)) + "</page>")
