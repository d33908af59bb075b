"""Both backends that run any graph agree on the canonical pieces, above all on the static KV cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import pytest
import torch

from intaglio.backends.onnxruntime import OnnxRuntimeSession
from intaglio.backends.reference import ReferenceSession
from intaglio.compiler.ir import (
    DOMAIN,
    GraphBuilder,
    check,
    dequantize_affine,
    quantize_activation,
    swiglu,
)

FLOAT, INT64 = ir.DataType.FLOAT, ir.DataType.INT64
HEADS, KV_HEADS, SIZE, CAPACITY = 6, 2, 8, 13
HIDDEN = HEADS * SIZE
Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def reference(model: ir.Model) -> Run:
    session = ReferenceSession(model)
    return lambda inputs: {name: one.numpy() for name, one in session.run(inputs).items()}


def reference_keeping(model: ir.Model) -> Run:
    session = ReferenceSession(model, keep_constants=True)
    return lambda inputs: {name: one.numpy() for name, one in session.run(inputs).items()}


def onnxruntime(model: ir.Model) -> Run:
    return OnnxRuntimeSession(model, threads=1).run


BACKENDS = [reference, reference_keeping, onnxruntime]


class Weights:
    """4-bit weights with scales and minima, dequantised by the canonical function."""

    def __init__(self, builder: GraphBuilder) -> None:
        self.builder = builder
        self.random = np.random.default_rng(3)

    def linear(self, x: ir.Value, rows: int, columns: int, name: str) -> ir.Value:
        blocks = columns // 16
        arrays = {
            "codes": self.random.integers(0, 16, (rows, columns)).astype(np.uint8),
            "scale": (self.random.random((rows, blocks)) * 0.05).astype(np.float16),
            "minimum": (self.random.random((rows, blocks)) * -0.3).astype(np.float16),
        }
        inputs = [self.builder.initializer(f"{name}.{kind}", array) for kind, array in arrays.items()]
        weight = self.builder.node("DequantizeAffine", inputs, {"block_size": 16}, domain=DOMAIN)
        turned = self.builder.node("Transpose", [weight], {"perm": [1, 0]})
        rounded = self.builder.node("QuantizeActivation", [x], {"group": 16}, domain=DOMAIN)
        return self.builder.node("MatMul", [rounded, turned], name=name)


def layer() -> ir.Model:
    """One decoder layer over a static cache: norm, projections, rotary, scatter, attention, gated MLP."""
    builder = GraphBuilder("layer")
    weights = Weights(builder)
    x = builder.input("x", FLOAT, ["batch", "sequence", HIDDEN])
    position = builder.input("position", INT64, ["batch"])
    caches = [builder.input(name, FLOAT, ["batch", KV_HEADS, CAPACITY, SIZE]) for name in ("key", "value")]
    length = sequence_length(builder, x)
    attended, updated = attention(builder, weights, normal(builder, x, "norm1"), position, length, caches)
    x = builder.node("Add", [x, attended], name="residual")
    gate = weights.linear(normal(builder, x, "norm2"), 32, HIDDEN, "gate")
    up = weights.linear(normal(builder, x, "norm3"), 32, HIDDEN, "up")
    gated = builder.node("SwiGLU", [gate, up], domain=DOMAIN)
    result = builder.node("Add", [x, weights.linear(gated, HIDDEN, 32, "down")], dtype=FLOAT)
    result.shape = ir.Shape(["batch", "sequence", HIDDEN])
    builder.output(result, "y")
    for name, value in zip(("key", "value"), updated, strict=True):
        value.dtype, value.shape = FLOAT, ir.Shape(["batch", KV_HEADS, CAPACITY, SIZE])
        builder.output(value, f"{name}.updated")
    model = builder.model([dequantize_affine(), quantize_activation(), swiglu()])
    check(model)
    return model


def sequence_length(builder: GraphBuilder, x: ir.Value) -> ir.Value:
    return builder.node("Shape", [x], {"start": 1, "end": 2}, name="length")


def normal(builder: GraphBuilder, x: ir.Value, name: str) -> ir.Value:
    scale = builder.initializer(f"{name}.weight", np.linspace(0.5, 1.5, HIDDEN, dtype=np.float32))
    return builder.node("RMSNormalization", [x, scale], {"epsilon": 1e-5}, name=name)


def attention(
    builder: GraphBuilder,
    weights: Weights,
    x: ir.Value,
    position: ir.Value,
    length: ir.Value,
    caches: Sequence[ir.Value],
) -> tuple[ir.Value, list[ir.Value]]:
    joined = weights.linear(x, HIDDEN + 2 * KV_HEADS * SIZE, HIDDEN, "qkv")
    sizes = builder.integers([HIDDEN, KV_HEADS * SIZE, KV_HEADS * SIZE])
    parts = builder.nodes("Split", [joined, sizes], {"axis": -1}, outputs=["q", "k", "v"])
    heads = [
        by_heads(builder, one, count) for one, count in zip(parts, (HEADS, KV_HEADS, KV_HEADS), strict=True)
    ]
    tables = rotary_tables(builder)
    steps = builder.node("Range", [builder.integer(0), builder.node("Squeeze", [length]), builder.integer(1)])
    ids = builder.node("Add", [builder.node("Unsqueeze", [position, builder.integers([1])]), steps])
    q, k = (builder.node("RotaryEmbedding", [one, *tables, ids]) for one in heads[:2])
    scatter = {"axis": 2, "mode": "linear"}
    updated = [
        builder.node("TensorScatter", [cache, one, position], scatter)
        for cache, one in zip(caches, (k, heads[2]), strict=True)
    ]
    total = builder.node("Add", [position, length], name="total")
    result = builder.node(
        "Attention", [q, *updated, None, None, None, total], {"is_causal": 1}, name="attention"
    )
    turned = builder.node("Transpose", [result], {"perm": [0, 2, 1, 3]})
    flat = builder.node("Reshape", [turned, builder.integers([0, 0, HIDDEN])])
    return weights.linear(flat, HIDDEN, HIDDEN, "out"), updated


def by_heads(builder: GraphBuilder, x: ir.Value, heads: int) -> ir.Value:
    cut = builder.node("Reshape", [x, builder.integers([0, 0, heads, SIZE])])
    return builder.node("Transpose", [cut], {"perm": [0, 2, 1, 3]})


def rotary_tables(builder: GraphBuilder) -> list[ir.Value]:
    angles = np.outer(np.arange(CAPACITY), 10.0 ** -np.arange(SIZE // 2))
    return [
        builder.initializer(name, table.astype(np.float32))
        for name, table in (("cosine", np.cos(angles)), ("sine", np.sin(angles)))
    ]


def decode(run: Run, x: np.ndarray, chunks: Sequence[int]) -> np.ndarray:
    """Outputs for all of `x`, fed in `chunks` over a cache that starts empty."""
    shape = (len(x), KV_HEADS, CAPACITY, SIZE)
    state = {"key": np.zeros(shape, np.float32), "value": np.zeros(shape, np.float32)}
    position, outputs = np.zeros(len(x), np.int64), []
    for part in np.split(x, np.cumsum(chunks)[:-1], axis=1):
        result = run({"x": part, "position": position, **state})
        outputs.append(result["y"])
        state = {name: result[f"{name}.updated"] for name in state}
        position = position + part.shape[1]
    return np.concatenate(outputs, axis=1)


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 11, HIDDEN)).astype(np.float32)


@pytest.fixture(scope="module")
def truth(tokens: np.ndarray) -> np.ndarray:
    session = ReferenceSession(layer(), dtype=torch.float64)
    return decode(lambda given: {name: one.numpy() for name, one in session.run(given).items()}, tokens, [11])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("chunks", [(11,), (4, 4, 3), (1,) * 11, (7, 1, 3)], ids=str)
def test_prefill_chunks_and_steps_agree(
    backend: Callable[[ir.Model], Run], chunks: tuple[int, ...], tokens: np.ndarray, truth: np.ndarray
) -> None:
    result = decode(backend(layer()), tokens, chunks)
    # A code that rounds the other way moves a result by a step of its group: 1/127 of its largest element.
    difference = np.abs(result - truth)
    assert np.median(difference) < 1e-5
    assert difference.max() < 0.02 * np.abs(truth).max()


@pytest.mark.parametrize("backend", BACKENDS)
def test_samples_of_a_batch_may_stand_at_different_positions(
    backend: Callable[[ir.Model], Run], tokens: np.ndarray
) -> None:
    run = backend(layer())
    shape = (2, KV_HEADS, CAPACITY, SIZE)
    state = {
        name: np.random.default_rng(1).standard_normal(shape).astype(np.float32) for name in ("key", "value")
    }
    position = np.array([3, 8])
    together = run({"x": tokens[:, :2], "position": position, **state})
    for sample in range(2):
        one = slice(sample, sample + 1)
        alone = run(
            {
                "x": tokens[one, :2],
                "position": position[one],
                **{name: cache[one] for name, cache in state.items()},
            }
        )
        for name, value in alone.items():
            np.testing.assert_allclose(together[name][one], value, rtol=1e-4, atol=1e-5)
        start = position[sample]
        untouched = np.r_[0:start, start + 2 : CAPACITY]
        np.testing.assert_array_equal(
            together["key.updated"][sample][:, untouched], state["key"][sample][:, untouched]
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_lies_beyond_the_length_does_not_matter(
    backend: Callable[[ir.Model], Run], tokens: np.ndarray
) -> None:
    run = backend(layer())
    shape = (2, KV_HEADS, CAPACITY, SIZE)
    clean = {name: np.zeros(shape, np.float32) for name in ("key", "value")}
    dirty = {name: np.full(shape, 1e4, np.float32) for name in ("key", "value")}
    given = {"x": tokens[:, :5], "position": np.zeros(2, np.int64)}
    np.testing.assert_array_equal(run({**given, **clean})["y"], run({**given, **dirty})["y"])


def test_the_static_cache_equals_plain_causal_attention(tokens: np.ndarray) -> None:
    q, k, v = (tokens[..., start : start + SIZE][:, None] for start in (0, 8, 16))
    builder = GraphBuilder()
    names = ("q", "k", "v")
    values = [builder.input(name, FLOAT, [2, 1, 11, SIZE]) for name in names]
    cache = builder.input("cache", FLOAT, [2, 1, CAPACITY, SIZE])
    builder.output(builder.node("Attention", values, {"is_causal": 1}), "plain")
    filled = [builder.node("TensorScatter", [cache, one], {"axis": 2}) for one in values[1:]]
    lengths = builder.input("lengths", INT64, [2])
    cached = builder.node("Attention", [values[0], *filled, None, None, None, lengths], {"is_causal": 1})
    builder.output(cached, "cached")
    given = dict(zip(names, (q, k, v), strict=True))
    state = {"cache": np.full((2, 1, CAPACITY, SIZE), 7.0, np.float32), "lengths": np.array([11, 11])}
    result = ReferenceSession(builder.model()).run({**given, **state})
    torch.testing.assert_close(result["plain"], result["cached"])
