"""Causal language models of folders compute what transformers computes, family by family."""

from __future__ import annotations

import functools
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from intaglio.backends.onnxruntime.session import OnnxRuntimeSession
from intaglio.backends.reference import ReferenceSession
from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.frontends.traced import DecoderArchitecture, Traced
from intaglio.compiler.frontends.tracing import trace
from intaglio.compiler.ir.invariants import check

HELPERS = Path(__file__).parents[1] / "helpers"
FAMILIES = runpy.run_path(str(HELPERS / "families.py"))["families"]()
FOLDERS = runpy.run_path(str(HELPERS / "huggingface_folders.py"))
Family = Callable[[str], tuple[Traced, Any]]
QUICK = 12  # families that are tested always; the others come for free
TOKENS = np.random.default_rng(7).integers(3, 131, (2, 13))  # longer than every window, odd


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(2)


def _named() -> list[Any]:
    marks = [() if index < QUICK else (pytest.mark.slow,) for index in range(len(FAMILIES))]
    return [pytest.param(name, marks=mark) for name, mark in zip(FAMILIES, marks, strict=True)]


def _traced(config: Any, folder: Path, **options: Any) -> tuple[Traced, Any]:
    original = FOLDERS["write_random_model"](config, folder, **options)
    return trace(folder), original


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Traced, Any]]:
    """A family's model, traced once, and the original."""

    @functools.cache
    def traced(name: str) -> tuple[Traced, Any]:
        return _traced(FAMILIES[name](), tmp_path_factory.mktemp("family"))

    return traced


def _logits(traced: Traced, tokens: NDArray[np.int64]) -> Any:
    if any(node.op_type == "TopK" for node in traced.model.graph):  # the interpreter has no such op
        return OnnxRuntimeSession(traced.model, threads=2).run({"input_ids": tokens})["logits"]
    return ReferenceSession(traced.model).run({"input_ids": tokens})["logits"].numpy()


def _check_equal(traced: Traced, original: Any, tokens: NDArray[np.int64] = TOKENS) -> None:
    wanted = FOLDERS["run_original"](original, tokens)
    np.testing.assert_allclose(_logits(traced, tokens), wanted, atol=1e-4)


def _architecture(traced: Traced) -> DecoderArchitecture:
    assert traced.architecture is not None
    return traced.architecture


def _count(traced: Traced, op_type: str) -> int:
    return sum(node.op_type == op_type for node in traced.model.graph)


@pytest.mark.parametrize("name", _named())
def test_a_family_computes_what_transformers_computes(name: str, family: Family) -> None:
    config = FAMILIES[name]()
    traced, original = family(name)
    check(traced.model)
    for tokens in (TOKENS, TOKENS[:1, :1]):
        _check_equal(traced, original, tokens)
    sizes = _architecture(traced)
    assert (sizes.layers, sizes.family) == (config.num_hidden_layers, config.model_type)
    assert sizes.tied_embedding == config.tie_word_embeddings
    assert traced.expected is not None
    assert traced.expected.attentions == _count(traced, "Attention") == config.num_hidden_layers


def test_names_are_those_of_the_checkpoint_without_its_prefix(family: Family) -> None:
    traced, _ = family("qwen2")
    graph = traced.model.graph
    assert {"embed_tokens.weight", "norm.weight", "lm_head.weight"} <= set(graph.initializers)
    assert {"layers.2.self_attn.q_proj.weight", "layers.2.self_attn.q_proj.bias"} <= set(graph.initializers)
    sites = {node.metadata_props.get("intaglio.site"): node for node in graph}
    linear = sites["layers.2.self_attn.q_proj"]
    assert linear.op_type == "MatMul"
    assert linear.name == "layers.2.self_attn.q_proj"
    assert "layers.2.self_attn.attention" in sites
    assert [value.name for value in graph.inputs] == ["input_ids"]
    assert [value.name for value in graph.outputs] == ["logits"]


def test_what_normalisation_must_find_is_counted_in_the_module(family: Family) -> None:
    traced, _ = family("gemma3_text")
    expected = traced.expected
    assert expected is not None
    # Per layer four norms around attention and MLP and two on q and k, and one at the end.
    assert (expected.attentions, expected.rotary_embeddings, expected.norms, expected.gated) == (3, 6, 19, 3)
    traced, _ = family("gpt2")
    expected = traced.expected
    assert expected is not None
    assert (expected.rotary_embeddings, expected.norms, expected.gated) == (0, 5, 0)


def test_windows_and_soft_caps_are_attributes_of_attention(family: Family) -> None:
    traced, _ = family("gemma2")
    nodes = [node for node in traced.model.graph if node.op_type == "Attention"]
    windows = [node.attributes.get_int("left_window_size", -1) for node in nodes]
    assert windows == [4, -1, 4]  # a window of five tokens holds the token itself
    assert {node.attributes.get_float("softcap") for node in nodes} == {7.0}
    assert {node.inputs[1].shape[1] for node in nodes} == {2}  # keys are not repeated for the query heads


def test_a_tied_head_is_the_embedding_and_one_that_differs_is_not(family: Family, tmp_path: Path) -> None:
    tied, _ = family("llama, tied")
    assert "lm_head.weight" not in tied.model.graph.initializers
    original = FOLDERS["write_random_model"](FAMILIES["llama, tied"](), tmp_path)
    head = torch.randn_like(original.lm_head.weight)
    FOLDERS["edit_weights"](tmp_path, lambda tensors: {**tensors, "lm_head.weight": head})
    original.lm_head.weight = torch.nn.Parameter(head)
    traced = trace(tmp_path)
    assert "lm_head.weight" in traced.model.graph.initializers
    assert not _architecture(traced).tied_embedding
    _check_equal(traced, original)


def test_weights_keep_their_type_and_are_widened_in_the_graph(tmp_path: Path) -> None:
    traced, original = _traced(FAMILIES["llama"](), tmp_path, dtype=torch.bfloat16)
    weight = traced.model.graph.initializers["layers.1.mlp.up_proj.weight"]
    assert weight.dtype is not None
    assert weight.dtype.name == "BFLOAT16"
    assert [use.node.op_type for use in weight.uses()] == ["Cast"]
    _check_equal(traced, original)


def test_weights_of_gpt2_are_turned_to_out_by_in(family: Family) -> None:
    traced, _ = family("gpt2")
    weight = traced.model.graph.initializers["h.1.attn.c_attn.weight"]
    assert weight.shape == (192, 64)


def test_experts_are_linear_layers_whose_weights_are_parts_of_the_checkpoint(family: Family) -> None:
    traced, original = family("mixtral")
    name = "layers.2.mlp.experts.3"
    weights = traced.model.graph.initializers
    joined = original.model.layers[2].mlp.experts.gate_up_proj[3].detach()
    for part, rows in (("gate_proj", joined[:96]), ("up_proj", joined[96:])):
        tensor = weights[f"{name}.{part}.weight"].const_value
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy(), rows)
    sites = {node.metadata_props.get("intaglio.site") for node in traced.model.graph}
    assert {f"{name}.gate_proj", f"{name}.up_proj", f"{name}.down_proj"} <= sites


LONGROPE = {
    "rope_type": "longrope",
    "long_factor": [4.0] * 8,
    "short_factor": [1.5] * 8,
    "partial_rotary_factor": 1.0,
    "original_max_position_embeddings": 24,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0}


@pytest.mark.parametrize(
    ("name", "parameters", "context"),
    [("phi3", LONGROPE, 24), ("llama", DYNAMIC, 64)],
    ids=["long", "dynamic"],
)
def test_frequencies_that_depend_on_the_length_are_those_of_pre_training(
    name: str, parameters: dict[str, Any], context: int, tmp_path: Path
) -> None:
    config = FAMILIES[name]()
    config.rope_parameters = {"rope_theta": 10000.0, **parameters}
    config.original_max_position_embeddings = context  # phi-3 has it there, too
    traced, original = _traced(config, tmp_path)
    assert _architecture(traced).context == context
    _check_equal(traced, original)


def test_layers_that_use_their_number_are_traced_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = transformers.models.llama.modeling_llama.LlamaAttention
    forward = attention.forward

    def scaled(self: Any, *arguments: Any, **keywords: Any) -> Any:
        mixed, weights = forward(self, *arguments, **keywords)
        return mixed * (self.layer_idx + 1), weights

    monkeypatch.setattr(attention, "forward", scaled)
    traced, original = _traced(FAMILIES["llama"](), tmp_path)
    _check_equal(traced, original)


SMALL = {"vocab_size": 131, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
UNFIT = {
    "MambaConfig": ({"state_size": 4}, "MambaForCausalLM cannot be traced"),
    "FalconConfig": ({}, "FalconForCausalLM cannot be built with attn_implementation"),
    "Lfm2Config": (
        {"intermediate_size": 48, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]},
        r"(?s)1 attentions in 2 layers.*Conv over the sequence, whose state no cache holds",
    ),
    "GptOssConfig": (
        {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 16, "num_local_experts": 2},
        r"(?s)layers\.0\.mlp\.experts: has_bias is True.*layers\.1\.mlp\.experts: is_concatenated is False",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_a_cache_cannot_serve_or_is_not_known_is_refused(name: str, tmp_path: Path) -> None:
    fields, told = UNFIT[name]
    config = getattr(transformers, name)(**{**SMALL, **fields})
    FOLDERS["write_random_model"](config, tmp_path)
    with pytest.raises(UnsupportedModelError, match=told):
        trace(tmp_path)
