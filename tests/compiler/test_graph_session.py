"""The oracle: a canonical graph run step by step equals the traced graph run whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from intaglio.backends.onnxruntime import OnnxRuntimeSession
from intaglio.backends.reference import ReferenceSession
from intaglio.compiler.errors import ContextLengthError, OptionError
from intaglio.compiler.frontends.tracing import trace
from intaglio.compiler.reference_session import GraphSession
from intaglio.passes.normalize import normalize

CAPACITY = 24
TOKENS = np.random.default_rng(0).integers(3, 250, size=17).tolist()


@pytest.fixture(scope="module")
def expected(tiny_gguf: Callable[..., Path]) -> np.ndarray:
    session = ReferenceSession(trace(tiny_gguf()).model)
    return session.run({"input_ids": np.array([TOKENS], np.int64)})["logits"][0].numpy()


def open_session(path: Path, runner: str = "reference", last_position_only: bool = False) -> GraphSession:
    traced = trace(path)
    model = normalize(
        traced.model,
        expected=traced.expected,
        capacity=CAPACITY,
        last_position_only=last_position_only,
    ).model
    if runner == "onnxruntime":
        return GraphSession(model, OnnxRuntimeSession(model, threads=1))
    return GraphSession(model, ReferenceSession(model, keep_constants=True))


def close(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Equal up to the order of float32 sums."""
    return float(np.abs(found - wanted).max()) < 1e-4 * float(np.abs(wanted).max())


@pytest.mark.parametrize("runner", ["reference", "onnxruntime"])
def test_pieces_equal_the_whole(tiny_gguf: Callable[..., Path], expected: np.ndarray, runner: str) -> None:
    session = open_session(tiny_gguf(), runner)
    assert (session.capacity, session.vocabulary, session.position) == (CAPACITY, expected.shape[1], 0)
    assert close(session.score(TOKENS[:9]), expected[:9])
    assert close(session.extend(TOKENS[9:10]), expected[9])
    assert close(session.extend(TOKENS[10:]), expected[16])
    assert session.position == 17


def test_going_back_forgets(tiny_gguf: Callable[..., Path], expected: np.ndarray) -> None:
    session = open_session(tiny_gguf())
    session.extend([*TOKENS[:5], 7, 7, 7])
    session.reset(5)
    assert close(session.score(TOKENS[5:]), expected[5:])
    session.reset()
    assert close(session.score(TOKENS), expected)
    with pytest.raises(OptionError, match="position 18"):
        session.reset(18)


def test_the_last_position_alone(tiny_gguf: Callable[..., Path], expected: np.ndarray) -> None:
    session = open_session(tiny_gguf(), last_position_only=True)
    assert close(session.extend(TOKENS), expected[-1])
    session.reset()
    with pytest.raises(OptionError, match="last position only"):
        session.score(TOKENS)


def test_the_capacity_is_kept(tiny_gguf: Callable[..., Path]) -> None:
    session = open_session(tiny_gguf())
    session.extend([1] * (CAPACITY - 1))
    session.extend([1])
    for tokens in ([1], []):
        with pytest.raises(ContextLengthError, match=f"context of {CAPACITY}"):
            session.extend(tokens)


def test_a_graph_without_cache_is_refused(tiny_gguf: Callable[..., Path]) -> None:
    model = trace(tiny_gguf()).model
    with pytest.raises(OptionError, match="no KV cache"):
        GraphSession(model, ReferenceSession(model))
