"""Compiled decoders against the reference backend on the lowered graph: formats, plans, sizes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest


class Case(NamedTuple):
    plan: str | None
    options: dict[str, Any]
    exact: bool  # whether no activation is rounded
    cache: float = 0.0  # error, at the median, of products of rounded queries and weights, and of ties


FLOATS = {"hidden": 40, "heads": 3, "kv_heads": 1, "head_dim": 20, "feed_forward": 51, "vocabulary": 301}


def stored_as_float32(name: str, rows: int) -> dict[str, Any]:
    """Options by which the weight `name` is float32 in a file of another type, so that it is not merged."""
    weight = np.random.default_rng(1).normal(size=(rows, 64), scale=0.1).astype(np.float32)
    return {"leave_out": (name,), "extra_tensors": {name: weight}}


def both(quantization: str, **options: Any) -> dict[str, Any]:
    return {"quantization": quantization, "embedding_quantization": quantization, **options}


CASES = {
    "Q4_0": Case(None, {"quantization": "Q4_0"}, False),
    "Q4_0, activations kept": Case("keep:a16", {"quantization": "Q4_0"}, True),
    "Q4_0, odd feed-forward": Case(None, {"feed_forward": 160, "vocabulary": 315}, False),
    "Q4_0, small heads": Case("keep", {"kv_heads": 1, "head_dim": 8, "vocabulary": 289}, False),
    "Q4_0, v apart": Case(None, stored_as_float32("blk.0.attn_v.weight", 32), False),
    "Q4_0, gate apart": Case(None, stored_as_float32("blk.1.ffn_gate.weight", 96), False),
    "Q4_1": Case("keep", {"quantization": "Q4_1", "tied": False}, False),
    "Q5_0": Case(None, both("Q5_0"), False),
    "Q5_1": Case(None, both("Q5_1", tied=False), False),
    "Q8_0": Case(None, {"quantization": "Q8_0", "rope_base": 500.0}, False),
    "Q4_K": Case(None, {"quantization": "Q4_K", "hidden": 256, "feed_forward": 256, "layers": 1}, False),
    "Q6_K": Case(None, {"quantization": "Q6_K", "hidden": 256, "feed_forward": 256, "layers": 1}, False),
    "F16": Case(None, both("F16"), True),
    "BF16": Case(None, both("BF16", head_dim=8, kv_heads=4, vocabulary=300), True),
    "F32, odd sizes": Case(None, both("F32", **FLOATS), True),
    "F32, odd sizes, own head": Case(None, both("F32", **FLOATS, tied=False), True),
    "int4-g32": Case("int4-g32", both("F16"), False),
    "int4-g32-asymmetric": Case("int4-g32-asymmetric", both("F16", vocabulary=290), False),
    "int4-g32-minimum": Case("int4-g32-minimum", both("F16"), False),
    "int8-channel": Case("int8-channel", {"quantization": "Q4_1"}, False),
    "fp32": Case("fp32", {"quantization": "Q4_1"}, True),
    "bf16": Case("bf16", {"quantization": "Q8_0", "tied": False}, True),
    "cache fp16": Case("fp32, cache=fp16", {"quantization": "Q8_0"}, False, 1e-3),
    "cache bf16": Case("fp32, cache=bf16", {"quantization": "Q8_0"}, False, 1e-2),
    "cache int8": Case("fp32, cache=int8", {"head_dim": 8, "kv_heads": 1}, False, 1e-2),
}


@pytest.fixture(params=CASES, scope="module")
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def decoder(case, tiny_decoder):
    return tiny_decoder(case.plan, **case.options)


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def session(request, decoder):
    session = decoder.session(request.param)
    yield session
    session.close()


def agree(case: Case, found: np.ndarray, expected: np.ndarray) -> None:
    """A code that falls to the other side of a half changes all that follows: seldom, and by little."""
    assert np.isfinite(found).all()
    error = np.abs(found - expected) / expected.std()
    # The head takes activations as 16-bit fixed point.
    assert np.median(error) < 5e-5 + case.cache
    assert error.max() < (5e-4 if case.exact else 0.25)


def test_score(case, decoder, session):
    """Three calls of the score program."""
    agree(case, session.score(decoder.tokens), decoder.expected)


def test_prefill(case, decoder, session):
    """One token, few, a chunk less, exactly and more one, and several chunks."""
    found, sizes = [], (1, 2, 7, 15, 16, 17, 33, 40)
    for size in sizes:
        session.reset()
        found.append(session.extend(decoder.tokens[:size]))
        assert session.position == size
    agree(case, np.stack(found), decoder.expected[[size - 1 for size in sizes]])


def test_decode(case, decoder, session):
    """Decoding after a prompt, from an earlier position again, and scoring what follows."""
    tokens = decoder.tokens
    session.extend(tokens[:7])
    found = [session.extend([token]) for token in tokens[7:20]]
    session.reset(9)
    found += [session.extend([token]) for token in tokens[9:12]]
    found.append(session.extend(tokens[12:31]))
    found += list(session.score(tokens[31:]))
    rows = [*range(7, 20), *range(9, 12), 30, *range(31, 40)]
    agree(case, np.stack(found), decoder.expected[rows])
    assert session.position == len(tokens)
