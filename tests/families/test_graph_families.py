"""Every family of graphs the whole way: compiled with three plans, equal or near to transformers.

Batches are padded and odd. The rows of the table in docs/models.md are made here.
"""

from __future__ import annotations

import runpy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import intaglio
from intaglio.compiler.frontends.frontend import TraceOptions
from intaglio.compiler.frontends.traced import Traced
from intaglio.compiler.graph_passes import normalized_graph

HELPERS = Path(__file__).parents[1] / "helpers"
GRAPHS = runpy.run_path(str(HELPERS / "graph_families.py"))["graph_families"]()
DECODERS = runpy.run_path(str(HELPERS / "families.py"))["families"]()
FOLDERS = runpy.run_path(str(HELPERS / "huggingface_folders.py"))
PAGE = runpy.run_path(str(HELPERS / "models_page.py"))
Band = PAGE["Band"]

PADDED = ("opt", "gpt2", "mistral", "gemma2", "mixtral")  # each masks or counts positions in a way of its own
SLOW = {"mixtral, padded", "t5, gated", "deit", "clip, text", "electra", "mpnet", "gemma2, padded"}
LENGTHS = (13, 8, 1)  # of the padded decoders' rows
PLANS = {"keep": None, "int8-channel": "int8-channel", "int4-g32": "int4-g32"}
# keep: the largest error, relative to the largest value. int8 and int4: root mean squares, relative to the
# outputs' own; these bands are twice as wide on both sides as what the families show.
BANDS = {"keep": Band(0, 1e-4, True), "int8-channel": Band(0.006, 0.5), "int4-g32": Band(0.05, 1.4)}
ROWS = (*GRAPHS, *(f"{name}, padded" for name in PADDED))
TABLE = PAGE["Table"](
    "graphs", ROWS, ("family", "class", "inputs", "outputs", "what its layers have", *PLANS), BANDS
)
NAMES = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in ROWS]
RECOGNISED = (
    *("Attention", "LayerNormalization", "RMSNormalization", "RotaryEmbedding"),
    *("Gelu", "SwiGLU", "GeGLU", "Relu", "Conv", "TopK"),
)
Arrays = Mapping[str, np.ndarray]
Case = tuple[str, Mapping[str, torch.Tensor], Arrays]  # class, inputs, results of the original


def graph_case(name: str, folder: Path) -> Case:
    """A random model, saved; its weights are larger than usual, so that attention attends to something."""
    family = GRAPHS[name]
    torch.manual_seed(0)
    model = getattr(transformers, family.model_class)(family.config()).eval()
    inputs = family.inputs()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.ndim > 1 else 0.1))
        model.save_pretrained(folder)
        results = (model.get_submodule(family.part) if family.part else model)(**inputs)
    return family.model_class, inputs, {one: results[one].numpy() for one in family.outputs}


def padded_case(name: str, folder: Path) -> Case:
    """A decoder, rows of its batch padded on the left; each row as computed without padding."""
    model = FOLDERS["write_random_model"](DECODERS[name](), folder)
    longest, random = max(LENGTHS), np.random.default_rng(3)
    batch, mask = np.zeros((2, len(LENGTHS), longest), np.int64)
    logits = np.zeros((len(LENGTHS), longest, model.config.vocab_size), np.float32)
    for row, length in enumerate(LENGTHS):
        tokens = random.integers(3, model.config.vocab_size, length)
        batch[row, longest - length :], mask[row, longest - length :] = tokens, 1
        logits[row, longest - length :] = FOLDERS["run_original"](model, tokens[None])[0]
    inputs = {"input_ids": torch.from_numpy(batch), "attention_mask": torch.from_numpy(mask)}
    return type(model).__name__, inputs, {"logits": logits}


def without_padding(values: Arrays, inputs: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Results by token are undefined where the mask is 0."""
    mask = inputs.get("attention_mask")
    if mask is None:
        return dict(values)
    real = mask.numpy() == 1
    return {name: one[real] if one.shape[:2] == real.shape else one for name, one in values.items()}


def error(label: str, found: Arrays, wanted: Arrays) -> float:
    """Of the output that is worst."""
    assert list(found) == list(wanted)
    pairs = [(found[name], one) for name, one in wanted.items()]
    assert all(one.shape == other.shape for one, other in pairs)
    if label == "keep":
        return max(float(np.abs(one - other).max() / np.abs(other).max()) for one, other in pairs)
    return max(
        float(np.sqrt(np.square(one - other).mean() / np.square(other).mean())) for one, other in pairs
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_family_computes_what_transformers_computes(
    name: str, quick: Callable[..., Traced], tmp_path: Path
) -> None:
    folder, padding = tmp_path / "model", name.endswith(", padded")
    make = padded_case if padding else graph_case
    model_class, inputs, results = make(name.removesuffix(", padded"), folder)
    arrays = {one: value.numpy() for one, value in inputs.items()}
    wanted, errors = without_padding(results, inputs), {}
    for label, plan in PLANS.items():
        with intaglio.compile(folder, plan=plan, padding=padding, threads=1) as compiled:
            given = compiled(**arrays)
            errors[label] = error(label, without_padding(given, inputs), wanted)
            if label == "keep":
                check_explanations(compiled)
            saved = compiled.save(tmp_path / label)
        with intaglio.load(saved, threads=1) as loaded:
            again = loaded(**arrays)
        assert all(np.array_equal(given[one], again[one], equal_nan=True) for one in given)
    made_of = ", ".join(features(quick(folder, TraceOptions(padding=padding))))
    cells = (model_class, ", ".join(arrays), ", ".join(wanted), made_of, *errors.values())
    TABLE.check(name, dict(zip(TABLE.columns[1:], cells, strict=True)))


def test_the_page_has_all_families() -> None:
    TABLE.check_structure()


def check_explanations(compiled: Any) -> None:
    """Graphs are run by onnxruntime whole, and every node says so."""
    assert {one["backend"] for one in compiled.manifest.sites} == {"onnxruntime"}
    for name, operator in compiled.manifest.operators.items():
        text = compiled.explain(name).to_text()
        assert "onnxruntime" in text
        assert operator in text or operator == "Constant"


def features(traced: Traced) -> Iterator[str]:
    """What normalisation recognises in the graph."""
    counts = Counter(node.op_type for node in normalized_graph(traced).model.graph)
    return (f"{counts[one]} {one}" for one in RECOGNISED if counts[one])
