"""Decoders of every architecture compute what transformers computes; files say what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from intaglio.backends.reference import ReferenceSession
from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.frontends.traced import DecoderArchitecture
from intaglio.compiler.frontends.tracing import trace
from intaglio.compiler.ir.invariants import check
from intaglio.compiler.reference_session import GraphSession
from intaglio.passes.normalize import normalize

TinyFamily = Callable[..., tuple[Path, Any]]
FAMILIES = ["qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def tokens(batch: int, length: int) -> NDArray[np.int64]:
    return np.random.default_rng(1).integers(0, 300, (batch, length))


def traced_logits(path: Path, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    logits = ReferenceSession(trace(path).model).run({"input_ids": ids})["logits"]
    result: NDArray[np.float32] = logits.numpy()
    return result


def relative_error(path: Path, model: Any, ids: NDArray[np.int64]) -> float:
    with torch.no_grad():
        wanted = model(torch.from_numpy(ids)).logits.numpy()
    return float(np.abs(traced_logits(path, ids) - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("quantization", ["F32", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_transformers(tiny_family: TinyFamily, family: str, quantization: str) -> None:
    path, model = tiny_family(family, quantization=quantization)

    assert relative_error(path, model, tokens(2, 23)) < 1e-5
    check(trace(path).model)


@pytest.mark.parametrize(
    ("family", "quantization"), [("gemma2", "Q3_K"), ("qwen2", "Q4_K"), ("phi3", "Q6_K")]
)
def test_equals_transformers_for_k_quants(tiny_family: TinyFamily, family: str, quantization: str) -> None:
    config: dict[str, Any] = {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "head_dim": 64,
    }
    keys: dict[str, Any] = {
        "attention.key_length": 64,
        "attention.value_length": 64,
        "rope.dimension_count": 64,
    }
    if family == "phi3":
        config |= {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
        keys |= {"rope.scaling.attn_factor": None}
    if family == "gemma2":
        config |= {"query_pre_attn_scalar": 64, "num_attention_heads": 8}
    path, model = tiny_family(family, quantization=quantization, config=config, keys=keys)

    assert relative_error(path, model, tokens(1, 9)) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_normalised_decoders_remember_what_they_must(tiny_family: TinyFamily, family: str) -> None:
    path, model = tiny_family(family, quantization="Q8_0")
    traced, ids = trace(path), tokens(1, 21)
    with torch.no_grad():
        wanted = model(torch.from_numpy(ids)).logits.numpy()[0]

    result = normalize(traced.model, expected=traced.expected, capacity=33)
    session = GraphSession(result.model, ReferenceSession(result.model))
    chunks = [ids[0, :13], *ids[0, 13:, None]]
    found = [session.extend(chunk.tolist()) for chunk in chunks]

    assert result.declined == ()
    np.testing.assert_allclose(np.stack(found), wanted[12:], atol=1e-5 * float(np.abs(wanted).max()))


CHANGES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "untied": ("qwen2", {"tie_word_embeddings": False}, {}),
    "tied": ("qwen3", {"tie_word_embeddings": True}, {}),
    "untied gemma": ("gemma3", {"tie_word_embeddings": False}, {}),
    "one key head": (
        "qwen3",
        {"num_key_value_heads": 1, "num_attention_heads": 3, "head_dim": 16},
        {"attention.key_length": 16, "attention.value_length": 16},
    ),
    "gemma2 says nothing": (
        "gemma2",
        {"sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        {"attention.sliding_window": None, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "gemma2 without caps": (
        "gemma2",
        {"attn_logit_softcapping": None, "final_logit_softcapping": None},
        {"attn_logit_softcapping": 0.0, "final_logit_softcapping": 0.0},
    ),
    "gemma2 27B": ("gemma2", {"num_hidden_layers": 46, "query_pre_attn_scalar": 16}, {}),
    "gemma3 without windows": (
        "gemma3",
        {"layer_types": ["full_attention"] * 7},
        {"attention.sliding_window": None},
    ),
    "gemma3 with a cap": ("gemma3", {"final_logit_softcapping": 2.0}, {"final_logit_softcapping": 2.0}),
    "every third layer sees all": (
        "gemma3",
        {
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
            "num_hidden_layers": 6,
        },
        {"attention.sliding_window_pattern": 3},
    ),
    "phi3 without factors": (
        "phi3",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.5}},
        {"rope.freq_base": 5e5, "rope.dimension_count": 8, "rope.scaling.attn_factor": None},
    ),
    "phi3 without window": ("phi3", {"sliding_window": None}, {"attention.sliding_window": 0}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_equals_transformers_with_changes(tiny_family: TinyFamily, change: str) -> None:
    family, config, keys = CHANGES[change]
    path, model = tiny_family(family, config=config, keys=keys)

    assert relative_error(path, model, tokens(1, 31)) < 1e-5


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("gemma2", {"attention.sliding_window": 6}),
        ("gemma2", {"attn_logit_softcapping": 6.0}),
        ("gemma3", {"attention.sliding_window": 0}),
        ("gemma3", {"rope.freq_base_swa": 5000.0}),
        ("gemma3", {"rope.scaling.factor": 4.0}),
        ("phi3", {"attention.sliding_window": 8}),
        ("phi3", {"rope.scaling.attn_factor": 1.0}),
        ("phi3", {"rope.dimension_count": 12, "rope.freq_base": 9000.0}),
    ],
)
def test_each_key_matters(tiny_family: TinyFamily, family: str, keys: dict[str, Any]) -> None:
    path, model = tiny_family(family, keys=keys)

    assert relative_error(path, model, tokens(1, 31)) > 1e-4


def test_names_follow_hugging_face(tiny_family: TinyFamily) -> None:
    names = {
        family: {str(one.name) for one in trace(tiny_family(family)[0]).model.graph} for family in FAMILIES
    }
    layer = "layers.1"

    assert {f"{layer}.self_attn.q_norm", f"{layer}.self_attn.k_norm"} <= names["qwen3"] & names["gemma3"]
    assert {f"{layer}.pre_feedforward_layernorm", f"{layer}.post_feedforward_layernorm"} <= names["gemma2"]
    assert {f"{layer}.self_attn.qkv_proj", f"{layer}.mlp.gate_up_proj"} <= names["phi3"]
    assert f"{layer}.self_attn.v_proj.bias" in trace(tiny_family("qwen2")[0]).model.graph.initializers
    assert not any("pre_feedforward" in name for name in names["qwen2"] | names["phi3"])


def sizes(path: Path) -> DecoderArchitecture:
    found = trace(path).architecture
    assert found is not None
    return found


def attributes(path: Path, op_type: str) -> list[dict[str, Any]]:
    nodes = [node for node in trace(path).model.graph if node.op_type == op_type]
    return [{name: one.value for name, one in node.attributes.items()} for node in nodes]


def test_windows_and_tables_go_by_layers(tiny_family: TinyFamily) -> None:
    path, _ = tiny_family("gemma3")
    graph = trace(path).model.graph
    tables = [
        str(node.inputs[1].name) for node in graph if node.op_type == "RotaryEmbedding" and node.inputs[1]
    ]

    windows = [one.get("left_window_size") for one in attributes(path, "Attention")]

    assert windows == [4, 4, 4, 4, 4, None, 4]
    assert tables[::2] == ["rotary.local.cosine"] * 5 + ["rotary.cosine", "rotary.local.cosine"]
    assert tables[::2] == tables[1::2]


def test_attributes_say_only_what_differs(tiny_family: TinyFamily) -> None:
    plain = tiny_family("qwen3")[0]
    wide = tiny_family("gemma2", config={"num_hidden_layers": 46, "query_pre_attn_scalar": 16}, keys={})[0]

    assert attributes(plain, "Attention") == [{"is_causal": 1}] * 3
    assert attributes(plain, "RotaryEmbedding") == [{}] * 6
    assert attributes(wide, "Attention")[1] == {"is_causal": 1, "scale": 0.25, "softcap": 5.0}
    assert attributes(tiny_family("phi3")[0], "RotaryEmbedding") == [{"rotary_embedding_dim": 12}] * 6


def test_windows_as_long_as_the_context_are_left_out(tiny_family: TinyFamily) -> None:
    path, _ = tiny_family("phi3", config={"sliding_window": 64}, keys={"attention.sliding_window": 64})

    assert attributes(path, "Attention") == [{"is_causal": 1}] * 3


def test_long_context_of_phi3_ends_where_its_other_factors_begin(tiny_family: TinyFamily) -> None:
    _, config, keys = CHANGES["phi3 without factors"]

    assert sizes(tiny_family("phi3")[0]).context == 64
    assert sizes(tiny_family("phi3", config=config, keys=keys)[0]).context == 128


@pytest.mark.parametrize(
    ("family", "norms"),
    [("qwen2", 7), ("qwen3", 13), ("gemma", 7), ("gemma2", 13), ("gemma3", 43), ("phi3", 7)],
)
def test_promises_what_the_graph_holds(tiny_family: TinyFamily, family: str, norms: int) -> None:
    traced = trace(tiny_family(family)[0])
    kinds = [node.op_type for node in traced.model.graph]

    assert sizes(tiny_family(family)[0]).family == family
    assert traced.expected is not None
    assert traced.expected.norms == norms == kinds.count("RMSNormalization")
    assert traced.expected.attentions == kinds.count("Attention") == sizes(tiny_family(family)[0]).layers
    assert traced.expected.rotary_embeddings == kinds.count("RotaryEmbedding")


@pytest.mark.parametrize("family", ["qwen2moe", "qwen3moe", "gemma4", "mamba"])
def test_other_architectures_are_refused_by_name(tiny_gguf: Callable[..., Path], family: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"'{family}'; compiled are llama, qwen2, .*gemma3"):
        trace(tiny_gguf(metadata={"general.architecture": family}))


def problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(UnsupportedModelError) as caught:
        trace(path)
    return caught.value.problems


def test_all_unsupported_metadata_is_listed_at_once(tiny_family: TinyFamily) -> None:
    keys = {
        "attn_logit_softcapping": 50.0,
        "attention.sliding_window": -1.5,
        "attention.sliding_window_pattern": 0,
        "rope.scaling.type": "yarn",
        "final_logit_softcapping": "high",
        "rope.freq_base_swa": -1.0,
        "rope.dimension_count": 16,
        "context_length": 0,
    }

    found = problems(tiny_family("gemma3", keys=keys)[0])

    assert len(found) == len(keys)
    for key, value in keys.items():
        assert any(f"gemma3.{key} = {value!r}" in problem for problem in found), key


def test_sizes_that_make_no_sense_are_told_like_others(tiny_family: TinyFamily) -> None:
    keys = {"block_count": 46, "embedding_length": 2, "attention.head_count": 5}

    found = problems(tiny_family("gemma2", keys=keys)[0])

    assert "5 attention heads cannot share 2 key heads evenly" in found


def test_keys_of_other_families_have_no_meaning(tiny_family: TinyFamily) -> None:
    keys = {"attention.sliding_window": 5, "final_logit_softcapping": 30.0, "rope.scaling.attn_factor": 1.1}

    assert len(problems(tiny_family("qwen2", keys=keys)[0])) == 3


def test_all_problems_with_tensors_are_listed_at_once(tiny_family: TinyFamily) -> None:
    path, _ = tiny_family(
        "qwen2",
        leave_out=("blk.1.attn_k.bias", "blk.2.ffn_up.weight", "output_norm.weight"),
        extra_tensors={
            "blk.0.attn_q_norm.weight": np.zeros(16, np.float32),
            "output.bias": np.zeros(300, np.float32),
            "output_norm.weight": np.zeros(63, np.float32),
        },
    )

    assert sorted(problems(path)) == [
        "blk.0.attn_q_norm.weight [16]: no qwen2 weight that we know",
        "blk.1.attn_k.bias [32] is missing",
        "blk.2.ffn_up.weight [96, 64] is missing",
        "output.bias [300]: no qwen2 weight that we know",
        "output_norm.weight has the shape [63] instead of [64]",
    ]


def test_tensors_of_fused_files_are_checked(tiny_family: TinyFamily) -> None:
    path, _ = tiny_family(
        "phi3",
        leave_out=("rope_factors_long.weight", "blk.0.attn_qkv.weight"),
        extra_tensors={"blk.0.attn_qkv.weight": np.zeros((127, 64), np.float32)},
    )

    assert sorted(problems(path)) == [
        "blk.0.attn_qkv.weight has the shape [127, 64] instead of [128, 64]",
        "rope_factors_long.weight [6] is missing",
    ]


@pytest.mark.parametrize(
    ("dimensions", "words"), [(11, "rotated dimensions 11 is odd"), (18, "from 1 to 16")]
)
def test_partial_rotation_is_checked(tiny_family: TinyFamily, dimensions: int, words: str) -> None:
    path, _ = tiny_family("phi3", keys={"rope.dimension_count": dimensions})

    assert words in problems(path)[0]
