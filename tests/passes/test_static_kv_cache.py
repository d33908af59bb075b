"""The canonical decoder: signature, tables, and the same logits in any chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from intaglio.backends.reference.session import ReferenceSession
from intaglio.compiler.errors import OptionError
from intaglio.compiler.ir.invariants import check
from intaglio.passes.normalize import Expected, normalize
from intaglio.passes.normalize.cut_rotary_tables import CutRotaryTables
from intaglio.passes.normalize.last_position_logits import LastPositionLogits
from intaglio.passes.normalize.static_kv_cache import StaticKvCache

SHAPE = {
    "grouped": {"quantization": "Q4_1"},
    "one key head": {"quantization": "Q4_0", "heads": 4, "kv_heads": 1},
    "head_dim apart": {"quantization": "Q8_0", "head_dim": 32, "heads": 3, "kv_heads": 3, "layers": 1},
    "float, untied": {"quantization": "F16", "embedding_quantization": "F32", "tied": False, "layers": 3},
}


@pytest.mark.parametrize("options", SHAPE.values(), ids=SHAPE.keys())
@pytest.mark.parametrize("chunks", [(9,), (5, 1, 1, 2), (1,) * 9], ids=str)
def test_cached_logits_equal_those_of_the_whole_sequence(
    tiny_decoder: Callable[..., Any], options: dict[str, Any], chunks: tuple[int, ...]
) -> None:
    decoder = tiny_decoder(**options)
    model = decoder.traced()
    result = normalize(
        model,
        expected=Expected(attentions=decoder.sizes.layers, gated=decoder.sizes.layers),
        capacity=decoder.CAPACITY,
    )
    assert result.declined == ()
    np.testing.assert_allclose(decoder.cached(model, chunks), decoder.whole(), rtol=1e-4, atol=1e-4)


def test_the_signature_is_the_documented_one(tiny_decoder: Callable[..., Any]) -> None:
    decoder = tiny_decoder(quantization="Q4_1")
    model = decoder.traced()
    normalize(model, expected=Expected(attentions=2, gated=2), capacity=24)
    cache = ["batch", 2, 24, 16]
    expected = {"input_ids": ["batch", "sequence"], "position": ["batch"]}
    for layer in range(2):
        expected |= {f"key_cache.{layer}": cache, f"value_cache.{layer}": cache}
    sizes = {
        one.name: [size if isinstance(size, int) else size.value for size in one.shape]
        for one in model.graph.inputs
    }
    assert sizes == expected
    outputs = [one.name for one in model.graph.outputs]
    assert outputs == ["logits", *(f"{name}.updated" for name in expected if "cache" in name)]


def test_the_attention_of_a_layer_after_normalising(
    tiny_decoder: Callable[..., Any], lines: Callable[[ir.Model], list[str]]
) -> None:
    decoder = tiny_decoder(quantization="Q8_0", layers=1)
    model = decoder.traced()
    normalize(model, expected=Expected(attentions=1, gated=1), capacity=24)
    found = [line for line in lines(model) if "self_attn" in line and "weight" not in line]
    found = found[: next(index for index, line in enumerate(found) if "Attention(" in line) + 1]
    name = "layers.0.self_attn"
    caches = "key_cache.0.updated, value_cache.0.updated"
    assert set(found) == {
        f"{name}.qkv_proj = MatMul(layers.0.input_layernorm, {name}.qkv_proj.transposed)",
        f"{name}.q_proj, {name}.k_proj, {name}.v_proj = "
        f"Split({name}.qkv_proj, constant.int64.3[64,32,32]) axis=-1",
        f"{name}.q_split = Reshape({name}.q_proj, constant.int64.4[0,0,4,16])",
        f"{name}.q_heads = Transpose({name}.q_split) perm=[0, 2, 1, 3]",
        f"{name}.q_rotated = RotaryEmbedding({name}.q_heads, rotary.cosine, rotary.sine, position_ids)",
        f"{name}.k_split = Reshape({name}.k_proj, constant.int64.4[0,0,2,16])",
        f"{name}.k_heads = Transpose({name}.k_split) perm=[0, 2, 1, 3]",
        f"{name}.k_rotated = RotaryEmbedding({name}.k_heads, rotary.cosine, rotary.sine, position_ids)",
        f"{name}.v_split = Reshape({name}.v_proj, constant.int64.4[0,0,2,16])",
        f"{name}.v_heads = Transpose({name}.v_split) perm=[0, 2, 1, 3]",
        f"key_cache.0.updated = TensorScatter(key_cache.0, {name}.k_rotated, position) axis=2 mode=linear",
        f"value_cache.0.updated = TensorScatter(value_cache.0, {name}.v_heads, position) axis=2 mode=linear",
        f"{name}.attention = Attention({name}.q_rotated, {caches}, , , , length) is_causal=1",
    }


def test_sequences_of_a_batch_may_stand_at_different_positions(tiny_decoder: Callable[..., Any]) -> None:
    decoder = tiny_decoder(quantization="Q4_1")
    model = decoder.traced()
    normalize(model, expected=Expected(attentions=2, gated=2), capacity=24)
    session = ReferenceSession(model)
    names = [str(one.name) for one in model.graph.inputs if "cache" in str(one.name)]
    empty = {name: np.full((2, 2, 24, 16), 3.0, np.float32) for name in names}
    tokens = np.random.default_rng(5).integers(0, 300, (2, 8))
    first = session.run({"input_ids": tokens[:, :5], "position": np.zeros(2, np.int64), **empty})
    # The second sequence goes back to position 3 and takes other tokens from there.
    caches = {name: first[f"{name}.updated"] for name in names}
    more = session.run({"input_ids": tokens[:, 5:], "position": np.array([5, 3]), **caches})["logits"].numpy()
    whole = ReferenceSession(decoder.traced())
    for row, sequence in enumerate([tokens[:1], np.delete(tokens[1:], [3, 4], axis=1)]):
        expected = whole.run({"input_ids": sequence})["logits"].numpy()[:, -3:]
        np.testing.assert_allclose(more[row : row + 1], expected, rtol=1e-4, atol=1e-4)


def test_a_graph_input_of_positions_disappears(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]]
) -> None:
    model = parse(
        """g (int64[b, s] input_ids, int64[b, s] position_ids, float[b, 2, s, 4] q) => (float[b, 2, s, 4] y) {
          r = RotaryEmbedding(q, cos, sin, position_ids)
          y = Attention<is_causal = 1>(q, q, q) z = Add(y, r) }""",
        cos=np.ones((8, 2), np.float32),
        sin=np.zeros((8, 2), np.float32),
    )
    StaticKvCache(8)(model)
    assert [one.name for one in model.graph.inputs] == [
        "input_ids",
        "q",
        "position",
        "key_cache.0",
        "value_cache.0",
    ]
    check(model)


PROBLEMS = {
    "y = Attention(q, q, q)": "not causal",
    "y = Attention<is_causal = 1>(q, q, q, mask)": "has a mask or a cache already",
    "k = Identity(q)  y = Attention<is_causal = 1>(q, k, q)": "not known to be",
}


@pytest.mark.parametrize(("body", "reason"), PROBLEMS.items())
def test_what_cannot_have_a_cache_is_declined(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]], body: str, reason: str
) -> None:
    text = f"g (int64[b, s] input_ids, float[b, 2, s, 4] q) => (float[b, 2, s, 4] y) {{ {body} }}"
    model = parse(text, mask=np.zeros((4, 4), np.float32))
    before = lines(model)
    result = StaticKvCache(8, expected=1)(model)
    assert lines(model) == before
    assert result.declined[0].reason == "expected 1 attentions to give a cache, found 0"
    assert reason in result.declined[1].reason


def test_bad_options_are_refused(parse: Callable[..., ir.Model], tiny_decoder: Callable[..., Any]) -> None:
    decoder = tiny_decoder()
    with pytest.raises(OptionError, match="capacity is 0"):
        StaticKvCache(0)(decoder.traced())
    with pytest.raises(OptionError, match="capacity 129 exceeds the 128 positions"):
        CutRotaryTables(129)(decoder.traced())
    text = "g (float[b, 2, s, 4] q) => (float[b, 2, s, 4] y) { y = Attention<is_causal = 1>(q, q, q) }"
    with pytest.raises(OptionError, match="input_ids"):
        StaticKvCache(8)(parse(text))


def test_rotary_tables_are_cut_to_the_capacity(tiny_decoder: Callable[..., Any]) -> None:
    model = tiny_decoder().traced()
    whole = model.graph.initializers["rotary.cosine"].const_value.numpy()
    result = CutRotaryTables(24)(model)
    cut = model.graph.initializers["rotary.cosine"]
    assert cut.shape == cut.const_value.shape == (24, 8)
    np.testing.assert_array_equal(cut.const_value.numpy(), whole[:24])
    assert [one.site for one in result.applied] == ["rotary.cosine", "rotary.sine"]
    assert not CutRotaryTables(24)(model).modified


@pytest.mark.parametrize("chunks", [(9,), (4, 5), (8, 1)], ids=str)
def test_last_position_only(tiny_decoder: Callable[..., Any], chunks: tuple[int, ...]) -> None:
    decoder = tiny_decoder(quantization="Q4_1")
    model = decoder.traced()
    result = normalize(model, expected=Expected(attentions=2, gated=2), capacity=24, last_position_only=True)
    assert result.declined == ()
    logits, ends = decoder.cached(model, chunks), np.cumsum(chunks) - 1
    np.testing.assert_allclose(logits, decoder.whole()[:, ends], rtol=1e-4, atol=1e-4)
    assert model.graph.outputs[0].shape[1:] == (1, 300)


def test_last_position_declines_what_is_not_a_head(
    parse: Callable[..., ir.Model], tiny_decoder: Callable[..., Any]
) -> None:
    graph = "g (float[b, s, 4] x) => (float[b, s, 4] logits) { logits = Neg(x) }"
    assert "no linear layer" in LastPositionLogits()(parse(graph)).declined[0].reason
    graph = """g (float[b, s, 4] x) => (float[b, s, 4] logits, float[b, s, 4] y) {
      n = RMSNormalization(x, w)  t = Transpose<perm = [1, 0]>(m)  logits = MatMul(n, t)  y = Neg(n) }"""
    model = parse(graph, w=np.ones(4, np.float32), m=np.ones((4, 4), np.float32))
    assert "has other readers than logits" in LastPositionLogits()(model).declined[0].reason
