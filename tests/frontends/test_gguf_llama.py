"""The traced graph computes what transformers computes, and says everything that it cannot compile."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

from intaglio.backends.reference import ReferenceSession
from intaglio.compiler.errors import UnsupportedModelError
from intaglio.compiler.frontends.tracing import trace
from intaglio.compiler.ir.invariants import check

TinyGguf = Callable[..., Path]
LoadLlama = Callable[..., Any]


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(2)


def traced_logits(path: Path, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    logits = ReferenceSession(trace(path).model).run({"input_ids": ids})["logits"]
    result: NDArray[np.float32] = logits.numpy()
    return result


def relative_error(path: Path, ids: NDArray[np.int64], oracle: Any) -> float:
    with torch.no_grad():
        wanted = oracle(torch.from_numpy(ids)).logits.numpy()
    return float(np.abs(traced_logits(path, ids) - wanted).max() / np.abs(wanted).max())


def tokens(batch: int, length: int, vocabulary: int = 300) -> NDArray[np.int64]:
    return np.random.default_rng(1).integers(0, vocabulary, (batch, length))


@pytest.mark.parametrize("quantization", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16", "F32"])
def test_equals_transformers(tiny_gguf: TinyGguf, load_llama: LoadLlama, quantization: str) -> None:
    path = tiny_gguf(quantization=quantization, tied=quantization != "Q4_1")

    assert relative_error(path, tokens(2, 37), load_llama(path)) < 1e-5


@pytest.mark.parametrize("quantization", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_equals_transformers_for_k_quants(
    tiny_gguf: TinyGguf, load_llama: LoadLlama, quantization: str
) -> None:
    path = tiny_gguf(quantization=quantization, hidden=256, feed_forward=512, layers=1, tied=False)

    assert relative_error(path, tokens(1, 9), load_llama(path)) < 1e-5


@pytest.mark.parametrize("embedding", ["Q4_1", "F16", "F32"])
def test_equals_transformers_for_any_embedding_type(
    tiny_gguf: TinyGguf, load_llama: LoadLlama, embedding: str
) -> None:
    path = tiny_gguf(embedding_quantization=embedding)

    assert relative_error(path, tokens(1, 9), load_llama(path)) < 1e-5


@pytest.mark.parametrize(
    "shape",
    [
        {"heads": 3, "kv_heads": 1, "hidden": 96, "head_dim": None},
        {"heads": 2, "kv_heads": 2, "head_dim": 48, "layers": 1},  # head_dim ≠ hidden / heads
        {"heads": 4, "kv_heads": 4, "head_dim": None, "layers": 3, "feed_forward": 32},
    ],
)
def test_equals_transformers_for_odd_shapes(
    tiny_gguf: TinyGguf, load_llama: LoadLlama, shape: dict[str, int | None]
) -> None:
    path = tiny_gguf(quantization="Q8_0", rope_base=5e5, **shape)

    assert relative_error(path, tokens(1, 5), load_llama(path)) < 1e-5


def test_linear_rope_scaling_stretches_positions(tiny_gguf: TinyGguf, load_llama: LoadLlama) -> None:
    scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    path = tiny_gguf(metadata=scaling)

    assert relative_error(path, tokens(1, 40), load_llama(path, rope_type="linear", factor=4.0)) < 1e-5
    assert relative_error(path, tokens(1, 40), load_llama(path)) > 1e-3


def test_frequency_factors_divide_the_rotary_frequencies(tiny_gguf: TinyGguf) -> None:
    factors = {"rope_freqs.weight": np.full(8, 4.0, np.float32)}
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    ids = tokens(1, 40)

    equal_factors = traced_logits(tiny_gguf(extra_tensors=factors), ids)

    np.testing.assert_allclose(equal_factors, traced_logits(tiny_gguf(metadata=linear), ids), rtol=1e-6)


def test_sizes_come_from_the_metadata(tiny_gguf: TinyGguf) -> None:
    path = tiny_gguf(layers=3, tied=False)

    traced = trace(path)

    sizes, tied = traced.architecture, trace(tiny_gguf()).architecture
    assert sizes is not None
    assert tied is not None
    assert (sizes.layers, sizes.hidden, sizes.feed_forward, sizes.vocabulary) == (3, 64, 96, 300)
    assert (sizes.heads, sizes.kv_heads, sizes.head_dim, sizes.context) == (4, 2, 16, 128)
    assert not sizes.tied_embedding
    assert tied.tied_embedding
    assert (traced.source.path, traced.source.bytes) == (path, path.stat().st_size)


def test_graph_is_as_the_architecture_page_says(tiny_gguf: TinyGguf) -> None:
    model = trace(tiny_gguf(quantization="Q4_1")).model
    graph = model.graph
    names = {node.name for node in graph}
    kinds = {node.op_type for node in graph}

    assert model.opset_imports[""] == 25
    assert [(one.name, str(one.shape)) for one in graph.inputs] == [("input_ids", "[batch,sequence]")]
    assert [(one.name, str(one.shape)) for one in graph.outputs] == [("logits", "[batch,sequence,300]")]
    assert {"embed_tokens", "layers.1.self_attn.q_proj", "layers.0.mlp.down_proj", "lm_head"} <= names
    assert {"Attention", "RotaryEmbedding", "RMSNormalization", "DequantizeAffine", "Sigmoid"} <= kinds
    codes = graph.initializers["layers.0.mlp.up_proj.weight.codes"]
    scale = graph.initializers["layers.0.mlp.up_proj.weight.scale"]
    assert (codes.dtype, codes.shape) == (ir.DataType.UINT4, ir.Shape([96, 64]))
    assert (scale.dtype, scale.shape) == (ir.DataType.FLOAT16, ir.Shape([96, 2]))


@pytest.mark.parametrize("quantization", ["Q4_0", "Q5_1", "BF16", "F32"])
def test_graph_keeps_the_invariants(tiny_gguf: TinyGguf, quantization: str) -> None:
    check(trace(tiny_gguf(quantization=quantization, tied=False)).model)


def test_tied_table_is_one_initialiser_used_twice(tiny_gguf: TinyGguf) -> None:
    graph = trace(tiny_gguf()).model.graph

    users = [str(node.name) for node, _ in graph.initializers["embed_tokens.weight.codes"].uses()]

    assert sorted(users) == ["embed_tokens.weight", "lm_head.weight"]
    assert not [name for name in graph.initializers if name.startswith("lm_head")]


def test_other_architectures_are_refused_by_name(tiny_gguf: TinyGguf) -> None:
    path = tiny_gguf(metadata={"general.architecture": "mamba"})

    with pytest.raises(UnsupportedModelError, match="'mamba'"):
        trace(path)


def test_all_unsupported_metadata_is_listed_at_once(tiny_gguf: TinyGguf) -> None:
    path = tiny_gguf(
        metadata={
            "llama.rope.scaling.type": "yarn",
            "llama.expert_count": 8,
            "llama.attention.sliding_window": 4096,
            "llama.rope.dimension_count": 8,
            "llama.attention.head_count": "four",
            "llama.attention.layer_norm_rms_epsilon": -1.0,
        }
    )

    with pytest.raises(UnsupportedModelError) as caught:
        trace(path)

    problems = "\n".join(caught.value.problems)
    for part in ("'yarn'", "expert_count", "sliding_window", "dimension_count", "'four'", "epsilon = -1.0"):
        assert part in problems


def test_all_problems_with_tensors_are_listed_at_once(tiny_gguf: TinyGguf) -> None:
    path = tiny_gguf(
        leave_out=("blk.1.attn_v.weight", "output_norm.weight"),
        extra_tensors={
            "blk.0.attn_q.bias": np.zeros(64, np.float32),
            "output_norm.weight": np.zeros(63, np.float32),
        },
    )

    with pytest.raises(UnsupportedModelError) as caught:
        trace(path)

    assert caught.value.problems == (
        "output_norm.weight has the shape [63] instead of [64]",
        "blk.1.attn_v.weight [32, 64] is missing",
        "blk.0.attn_q.bias [64]: no llama weight that we know",
    )


def test_parts_of_split_files_and_surplus_tokens_are_refused(tiny_gguf: TinyGguf) -> None:
    with pytest.raises(UnsupportedModelError, match="one of 3 parts; join them first"):
        trace(tiny_gguf(metadata={"split.count": 3}))
    with pytest.raises(UnsupportedModelError, match="300 tokens, but the embedding only 299 rows"):
        trace(tiny_gguf(metadata={"llama.vocab_size": 299}))


def test_missing_sizes_and_absurd_layer_counts_are_refused(tiny_gguf: TinyGguf) -> None:
    with pytest.raises(UnsupportedModelError, match="60000 layers need more than the file's 20 tensors"):
        trace(tiny_gguf(metadata={"llama.block_count": 60000}))
    with pytest.raises(UnsupportedModelError, match="block_count = 0 is not a whole number"):
        trace(tiny_gguf(metadata={"llama.block_count": 0}))
    with pytest.raises(UnsupportedModelError, match=r"token_embd.weight has the shape \[300, 64\]"):
        trace(tiny_gguf(metadata={"llama.vocab_size": 301}))


def test_context_length_costs_nothing_until_the_tables_are_read(tiny_gguf: TinyGguf) -> None:
    path = tiny_gguf(metadata={"llama.context_length": 2**24})
    tracemalloc.start()

    cosine = trace(path).model.graph.initializers["rotary.cosine"]

    assert cosine.shape == ir.Shape([2**24, 8])
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_tracing_smollm2_is_quick_and_small(smollm2: Path) -> None:
    trace(smollm2)  # imports, page cache
    start = time.perf_counter()
    before = anonymous_bytes()

    traced = trace(smollm2)

    assert time.perf_counter() - start < 1.0
    assert anonymous_bytes() - before < 50e6
    assert len(traced.model.graph) > 1000


@pytest.mark.slow
def test_smollm2_equals_transformers(smollm2: Path, load_llama: LoadLlama) -> None:
    traced = trace(smollm2)
    assert traced.tokenizer is not None
    ids = np.array([traced.tokenizer.encode("The capital of France is Paris. 1 + 1 = 2, and the sea")])

    assert relative_error(smollm2, ids, load_llama(smollm2)) < 1e-4


def anonymous_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))
