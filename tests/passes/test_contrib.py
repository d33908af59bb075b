"""Fused operators of onnxruntime, taken apart: the same numbers as onnxruntime's own kernels give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from intaglio.compiler.ir.invariants import check
from intaglio.passes.normalize.contrib import LowerContrib

pytest.importorskip("onnxruntime")
from intaglio.backends.onnxruntime.session import OnnxRuntimeSession

RANDOM = np.random.default_rng(7)
HEADER = '<ir_version: 10, opset_import: ["" : 25, "intaglio" : 1, "com.microsoft" : 1]> '
B, S, H = 2, 5, 8  # batch, sequence, hidden


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return RANDOM.standard_normal(shape).astype(np.float32)


TOKENS = RANDOM.integers(0, 9, (B, S)).astype(np.int32)
SEGMENTS = RANDOM.integers(0, 2, (B, S)).astype(np.int32)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
X = f"float[batch, sequence, {H}] x"
SKIP = f"float[batch, sequence, {H}] skip"
Y = f"float[batch, sequence, {H}] y"
VECTORS = {"w": 1 + floats(H) / 4, "b": floats(H), "bias": floats(H)}
TABLES = {"words": floats(9, H), "places": floats(S, H), "kinds": floats(2, H)}
ANGLES = {"cosine": floats(12, 2), "sine": floats(12, 2)}
QKV = f"float[batch, sequence, {H}] q, float[batch, sequence, {H}] k, float[batch, sequence, {H}] v"
GROUPED = "float[batch, sequence, 32] q, float[batch, sequence, 16] k, float[batch, sequence, 16] v"

# inputs, outputs, nodes, weights, ops afterwards
CASES: dict[str, tuple[str, str, str, dict[str, Any], str]] = {
    "gelu": (X, Y, "y = Gelu(x)", {}, "Gelu"),
    "bias gelu": (X, Y, "y = BiasGelu(x, b)", VECTORS, "Add Gelu"),
    "fast gelu": (X, Y, "y = FastGelu(x)", {}, "Gelu"),
    "fast gelu with bias": (X, Y, "y = FastGelu(x, b)", VECTORS, "Add Gelu"),
    "quick gelu": (X, Y, "y = QuickGelu(x)", {}, "Mul Sigmoid Mul"),
    "quick gelu as SiLU": (X, Y, "y = QuickGelu<alpha = 1.0>(x)", {}, "Sigmoid Mul"),
    "fused matmul": (
        X,
        "float[batch, sequence, 3] y",
        "y = FusedMatMul<alpha = 0.5, transB = 1>(x, m)",
        {"m": floats(3, H)},
        "Transpose MatMul Mul",
    ),
    "fused matmul of heads": (
        "float[batch, 2, sequence, 4] x, float[batch, 2, sequence, 4] z",
        "float[batch, 2, sequence, sequence] y",
        "y = FusedMatMul<transB = 1>(x, z)",
        {},
        "Transpose MatMul",
    ),
    "fused gemm": (
        "float[batch, 8] x",
        "float[batch, 3] y",
        'y = FusedGemm<activation = "Relu", transB = 1>(x, m, c)',
        {"m": floats(3, H), "c": floats(3)},
        "Gemm Relu",
    ),
    "skip norm": (
        f"{X}, {SKIP}",
        Y,
        "y = SkipLayerNormalization<epsilon = 0.001>(x, skip, w, b)",
        VECTORS,
        "Add LayerNormalization",
    ),
    "skip norm with bias and sum": (
        f"{X}, {SKIP}",
        f"{Y}, float[batch, sequence, {H}] total",
        "y, mean, inverse, total = SkipLayerNormalization(x, skip, w, b, bias)",
        VECTORS,
        "Add Add LayerNormalization",
    ),
    "skip RMS norm with sum": (
        f"{X}, {SKIP}",
        f"{Y}, float[batch, sequence, {H}] total",
        "y, mean, inverse, total = SkipSimplifiedLayerNormalization<epsilon = 0.01>(x, skip, w)",
        VECTORS,
        "Add RMSNormalization",
    ),
    "embedding": (
        "int32[batch, sequence] ids, int32[batch, sequence] segments, int32[batch, sequence] mask",
        f"{Y}, int32[batch] kept",
        "y, kept = EmbedLayerNormalization<epsilon = 1e-5>(ids, segments, words, places, kinds, w, b, mask)",
        {**TABLES, **VECTORS},
        "Gather Shape Squeeze Squeeze Squeeze Range Unsqueeze Gather Gather Add Add LayerNormalization "
        "ReduceSum Cast",
    ),
    "attention": (
        f"{X}, int32[batch, sequence] mask",
        Y,
        "y = Attention<num_heads = 2>(x, m, c, mask)",
        {"m": floats(H, 3 * H), "c": floats(3 * H)},
        "Cast Unsqueeze MatMul Add Split Reshape Transpose Reshape Transpose Reshape Transpose Shape Concat "
        "Expand Attention Transpose Reshape",
    ),
    "causal attention": (
        X,
        Y,
        "y = Attention<num_heads = 4, unidirectional = 1, scale = 0.3>(x, m, c)",
        {"m": floats(H, 3 * H), "c": floats(3 * H)},
        "MatMul Add Split Reshape Transpose Reshape Transpose Reshape Transpose Attention Transpose Reshape",
    ),
    "attention of lengths": (
        f"{X}, int32[batch] lengths",
        Y,
        "y = Attention<num_heads = 2>(x, m, c, lengths)",
        {"m": floats(H, 3 * H), "c": floats(3 * H)},
        "Shape Squeeze Range Cast Unsqueeze Less MatMul Add Split Reshape Transpose Reshape Transpose "
        "Reshape Transpose Shape Concat Expand Attention Transpose Reshape",
    ),
    "heads with mask and bias": (
        f"{QKV}, int32[batch, sequence] mask, float[batch, 2, sequence, sequence] added",
        Y,
        "y = MultiHeadAttention<num_heads = 2>(q, k, v, c, mask, added)",
        {"c": floats(3 * H)},
        "Cast Unsqueeze Split Add Add Add Reshape Transpose Reshape Transpose Reshape Transpose Where Shape "
        "Concat Expand Attention Transpose Reshape",
    ),
    "plain heads": (
        QKV,
        Y,
        "y = MultiHeadAttention<num_heads = 2>(q, k, v)",
        {},
        "Reshape Transpose Reshape Transpose Reshape Transpose Attention Transpose Reshape",
    ),
    "rotary": (
        "float[batch, 3, sequence, 4] x, int64[batch, sequence] ids",
        "float[batch, 3, sequence, 4] y",
        "y = RotaryEmbedding(x, ids, cosine, sine)",
        ANGLES,
        "RotaryEmbedding",
    ),
    "rotary from a first position": (
        f"{X}, int64[1] first",
        Y,
        "y = RotaryEmbedding<interleaved = 1, num_heads = 2>(x, first, cosine, sine)",
        ANGLES,
        "Shape Squeeze Range Add Shape Concat Unsqueeze Expand RotaryEmbedding",
    ),
}
FEEDS = {
    "x": floats(B, S, H),
    "skip": floats(B, S, H),
    "ids": TOKENS,
    "segments": SEGMENTS,
    "mask": MASK,
    "lengths": MASK.sum(1).astype(np.int32),
    "q": floats(B, S, H),
    "k": floats(B, S, H),
    "v": floats(B, S, H),
    "added": floats(B, 2, S, S),
    "z": floats(B, 2, S, 4),
    "first": np.array([2]),
}
SHAPED = {
    "fused matmul of heads": {"x": floats(B, 2, S, 4)},
    "fused gemm": {"x": floats(B, H)},
    "rotary": {"x": floats(B, 3, S, 4), "ids": np.array([[0, 1, 2, 3, 4], [3, 4, 5, 6, 7]])},
}


def contrib(parse: Callable[..., ir.Model], inputs: str, outputs: str, body: str, weights: Any) -> ir.Model:
    node = body.replace("= ", "= com.microsoft.", 1)
    used = {name: one for name, one in weights.items() if name in body}
    return parse(f"g ({inputs}) => ({outputs}) {{ {node} }}", header=HEADER, **used)


@pytest.mark.parametrize("case", CASES)
def test_standard_ops_give_what_the_fused_one_gives(parse: Callable[..., ir.Model], case: str) -> None:
    inputs, outputs, body, weights, ops = CASES[case]
    model = contrib(parse, inputs, outputs, body, weights)
    feeds = {**FEEDS, **SHAPED.get(case, {})}
    feeds = {str(one.name): feeds[str(one.name)] for one in model.graph.inputs}
    expected = OnnxRuntimeSession(model, threads=1).run(feeds)
    result = LowerContrib()(model)
    assert result.declined == ()
    assert [node.op_type for node in model.graph if node.op_type != "Constant"] == ops.split()
    check(model)
    found = OnnxRuntimeSession(model, threads=1).run(feeds)
    for name, one in expected.items():
        kept = MASK.astype(bool) if "mask" in feeds and one.shape[:2] == MASK.shape else slice(None)
        np.testing.assert_allclose(found[name][kept], one[kept], rtol=1e-4, atol=1e-5)


def test_simplified_norm_of_the_standard_domain(
    parse: Callable[..., ir.Model], lines: Callable[..., list[str]]
) -> None:
    text = f"g ({X}) => ({Y}) {{ y = SimplifiedLayerNormalization<axis = -1, epsilon = 0.01>(x, w) }}"
    model = parse(text, w=VECTORS["w"])
    LowerContrib()(model)
    (line,) = lines(model)
    assert line.startswith("y = RMSNormalization(x, w) axis=-1 epsilon=0.0")


def test_grouped_queries_without_past(parse: Callable[..., ir.Model]) -> None:
    caches = "float[batch, 1, sequence, 16]"
    text = (
        f"{GROUPED}, int32[batch] ends, int32 total",
        f"float[batch, sequence, 32] y, {caches} keys, {caches} values",
        "y, keys, values = GroupQueryAttention<num_heads = 2, kv_num_heads = 1, do_rotary = 1>"
        '(q, k, v, "", "", ends, total, cosine, sine)',
    )
    model = contrib(parse, *text, {"cosine": floats(12, 8), "sine": floats(12, 8)})
    feeds = {"q": floats(B, S, 32), "k": floats(B, S, 16), "v": floats(B, S, 16)}
    feeds |= {"ends": np.full(B, S - 1, np.int32), "total": np.array(S, np.int32)}
    expected = OnnxRuntimeSession(model, threads=1).run(feeds)
    assert LowerContrib()(model).declined == ()
    found = OnnxRuntimeSession(model, threads=1).run(feeds)
    for name, one in expected.items():
        np.testing.assert_allclose(found[name], one, rtol=1e-4, atol=1e-5)


DECLINED = {
    "y = FusedMatMul<transBatchB = 1>(x, z)": "transBatchB=1",
    "y = FusedMatMul<transB = 1>(x, u)": "unknown rank",
    'y = FusedGemm<activation = "LeakyRelu">(x, z)': "activation 'LeakyRelu'",
    "y, mean = SkipLayerNormalization(x, z, w)  n = Neg(mean)": "its output mean is read",
    "y = Attention<num_heads = 2>(x, w, w, w3)": "Attention has",
    "y = MultiHeadAttention<num_heads = 2>(x)": "lacks its input 1",
    "y = RotaryEmbedding<scale = 2.0>(x, ids, w, w)": "scale=2.0",
}


@pytest.mark.parametrize(("body", "reason"), DECLINED.items())
def test_near_misses_are_explained_and_left_alone(
    parse: Callable[..., ir.Model], lines: Callable[[ir.Model], list[str]], body: str, reason: str
) -> None:
    more = ", float[b] n" if "n = Neg" in body else ""
    weights = {"w": floats(4), "w3": floats(4, 4, 4)}
    inputs = "float[b, s, 4] x, float[b, s, 4] z, float u, int64[b, s] ids"
    model = contrib(parse, inputs, f"float[b, s, 4] y{more}", body, weights)
    next(one for one in model.graph.inputs if one.name == "u").shape = None
    before = lines(model)
    result = LowerContrib()(model)
    assert lines(model) == before
    assert reason in result.declined[0].reason


def test_quantised_operators_stay(parse: Callable[..., ir.Model], lines: Callable[..., list[str]]) -> None:
    body = "y = MatMulInteger16(x, x)"
    model = contrib(parse, "int16[4, 4] x", "int32[4, 4] y", body, {})
    result = LowerContrib()(model)
    assert (result.applied, result.declined) == ((), ())
    assert lines(model) == ["y = com.microsoft.MatMulInteger16(x, x)"]
