"""Every family of decoders the whole way: compiled with three plans, equal or near to transformers.

The rows of the table in docs/models.md are made here.
"""

from __future__ import annotations

import runpy
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import intaglio
from intaglio.compiler.compiled_model import CompiledModel
from intaglio.compiler.frontends.traced import DecoderArchitecture, Traced
from intaglio.passes.normalize import normalize

HELPERS = Path(__file__).parents[1] / "helpers"
FAMILIES = runpy.run_path(str(HELPERS / "families.py"))["families"]()
FOLDERS = runpy.run_path(str(HELPERS / "huggingface_folders.py"))
PAGE = runpy.run_path(str(HELPERS / "models_page.py"))
Band = PAGE["Band"]

CONTEXT, LENGTH = 49, 40
PARTS = (7, 1, 21, 1, *[1] * 10)  # of the text, as the session is fed with them
# Keys and values in float32: parts of a text give what the whole gives only where attention rounds nothing.
PLANS = {label: f"{label}, cache=fp32" for label in ("keep", "int8-channel", "int4-g32")}
# keep: the largest error, relative to the largest logit. int8 and int4: root mean squares, relative to the
# logits' own; these bands are twice as wide on both sides as what the families show.
BANDS = {"keep": Band(0, 1e-4, True), "int8-channel": Band(0.005, 0.12), "int4-g32": Band(0.05, 1.0)}
TABLE = PAGE["Table"](
    "decoders",
    tuple(FAMILIES),
    ("family", "class", "what its layers have", *PLANS, "run by onnxruntime"),
    BANDS,
)
QUICK = 12  # families that are tested always: the most frequent, and one with experts
NAMES = [
    pytest.param(name, marks=() if index < QUICK else pytest.mark.slow) for index, name in enumerate(FAMILIES)
]


def largest(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def root_mean_square(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean()))


def check_steps(compiled: CompiledModel, tokens: list[int], logits: np.ndarray, *, rounded: bool) -> None:
    """The session, fed in parts over its cache, gives what a call gave.

    Where activations are rounded, sums in another order may put one on the other side of a half: seldom, and
    by little.
    """
    session, start, errors = compiled.session, 0, []
    session.reset()
    for length in PARTS:
        last = session.extend(tokens[start : start + length])
        start += length
        errors.append(largest(last, logits[start - 1]))
    assert start == LENGTH
    assert max(errors) < (0.05 if rounded else 1e-5)
    assert np.median(errors) < 1e-5


def check_explanations(compiled: CompiledModel) -> None:
    """What onnxruntime runs says so, and why."""
    for site in compiled.manifest.sites:
        text = compiled.explain(site["site"]).to_text()
        assert (site["backend"] == "onnxruntime") == ("backend onnxruntime" in text)
        assert site["reason"] in text


@pytest.mark.parametrize("name", NAMES)
def test_a_family_computes_what_transformers_computes(
    name: str, quick: Callable[..., Traced], tmp_path: Path
) -> None:
    config = FAMILIES[name]()
    original = FOLDERS["write_random_model"](config, tmp_path / "model")
    tokens = np.random.default_rng(7).integers(3, config.vocab_size, LENGTH)
    wanted = FOLDERS["run_original"](original, tokens[None])[0]
    workload, errors = intaglio.Workload(prefill=16, decode=16), {}
    for label, plan in PLANS.items():
        with intaglio.compile(
            tmp_path / "model", plan=plan, context=CONTEXT, workload=workload, threads=1
        ) as compiled:
            logits = compiled(tokens.tolist())
            check_steps(compiled, tokens.tolist(), logits, rounded=label != "keep")
            foreign = run_by_onnxruntime(compiled)
            if label != "keep":
                errors[label] = root_mean_square(logits, wanted)
                continue
            errors[label] = largest(logits, wanted)
            check_explanations(compiled)
            saved = compiled.save(tmp_path / "saved")
        with intaglio.load(saved, threads=1) as loaded:
            np.testing.assert_array_equal(loaded(tokens.tolist()), logits)
            greedy = loaded.generate(tokens.tolist(), max_new_tokens=4).tokens
        assert greedy[0] == wanted[-1].argmax()
    made_of = ", ".join(features(quick(tmp_path / "model")))
    TABLE.check(
        name,
        {"class": type(original).__name__, TABLE.columns[2]: made_of, **errors, TABLE.columns[-1]: foreign},
    )


def test_the_page_has_all_families() -> None:
    TABLE.check_structure()


def run_by_onnxruntime(compiled: CompiledModel) -> str:
    """Operators without a kernel of ours, by their reasons."""
    reasons = {one["reason"] for one in compiled.manifest.sites if one["backend"] == "onnxruntime"}
    plain = {one.removesuffix(" fits no region") for one in reasons if one.endswith(" fits no region")}
    others = sorted(reasons - {f"{one} fits no region" for one in plain})
    return "; ".join([*others, *([", ".join(sorted(plain))] if plain else [])]) or "nothing"


def features(traced: Traced) -> Iterator[str]:
    """Kinds of layers, as found in the canonical graph."""
    sizes = traced.architecture
    assert sizes is not None
    weights = traced.model.graph.initializers
    biased = any(
        name.endswith(".bias")
        and (sibling := weights.get(f"{name.removesuffix('.bias')}.weight")) is not None
        and len(sibling.shape or ()) == 2
        for name in weights
    )
    normed = any(".q_norm." in name for name in weights)
    nodes = list(normalize(traced.model, expected=traced.expected, capacity=CONTEXT).model.graph)
    counts = Counter(node.op_type for node in nodes)
    yield from _kinds(counts)
    yield from _attention(nodes, sizes)
    facts = {
        "norms of q and k": normed,
        "biases": biased,
        "experts": counts["TopK"],
        "soft-capped logits": counts["Tanh"],
    }
    yield from (fact for fact, holds in {**facts, "tied head": sizes.tied_embedding}.items() if holds)


def _kinds(counts: Counter[str]) -> Iterator[str]:
    names = {"RMSNormalization": "RMSNorm", "LayerNormalization": "LayerNorm", "SwiGLU": "SwiGLU"}
    names |= {"GeGLU": "GeGLU", "Gelu": "GELU", "Relu": "ReLU"}
    return (text for operator, text in names.items() if counts[operator])


def _attention(nodes: list[ir.Node], sizes: DecoderArchitecture) -> Iterator[str]:
    attentions = [node for node in nodes if node.op_type == "Attention"]
    rotations = [node for node in nodes if node.op_type == "RotaryEmbedding"]
    layers = len(attentions)
    windows = sum(node.attributes.get_int("left_window_size", -1) >= 0 for node in attentions)
    partial = any(node.attributes.get_int("rotary_embedding_dim", 0) for node in rotations)
    rotated = len(rotations) // 2
    if not rotated:
        yield "learned positions"
    else:
        extent = f" in {rotated} of {layers} layers" if rotated < layers else ""
        yield f"{'partly ' if partial else ''}rotary{extent}"
    if sizes.kv_heads < sizes.heads:
        yield "shared keys"
    if windows:
        yield f"windows in {windows} of {layers} layers"
    if any(node.attributes.get_float("softcap", 0.0) for node in attentions):
        yield "soft-capped scores"
