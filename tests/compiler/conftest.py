"""A small decoder that is no model, and a tokenizer of bytes: for tests of what stands around a session."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from intaglio.compiler.errors import ContextLengthError

END = 256


class ScriptedSession:
    """After n tokens, likes `script[n - prompt]` best; everything else follows from the tokens' sum."""

    vocabulary = 257

    def __init__(self, script: Sequence[int], prompt: int, capacity: int = 64) -> None:
        self.script, self.prompt, self.capacity = list(script), prompt, capacity
        self.tokens: list[int] = []
        self.calls: list[int] = []  # lengths of the calls

    @property
    def position(self) -> int:
        return len(self.tokens)

    def reset(self, position: int = 0) -> None:
        del self.tokens[position:]

    def extend(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        return self.score(tokens)[-1]

    def score(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        if self.position + len(tokens) > self.capacity:
            raise ContextLengthError("scripted: full")
        self.calls.append(len(tokens))
        rows = []
        for token in tokens:
            self.tokens.append(token)
            rows.append(self._logits())
        return np.stack(rows)

    def _logits(self) -> NDArray[np.float32]:
        logits = np.random.default_rng(sum(self.tokens)).normal(size=self.vocabulary).astype(np.float32)
        step = len(self.tokens) - self.prompt
        if 0 <= step < len(self.script):
            logits[self.script[step]] = 20
        return logits


class ByteTokenizer:
    """One token per byte of UTF-8, and an end token."""

    end_tokens = frozenset({END})

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(token for token in tokens if token < END).decode(errors="replace")

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        return "".join(f"<{one['role']}>{one['content']}" for one in messages)

    def to_json(self) -> str:
        return "{}"


@pytest.fixture
def scripted() -> Callable[..., ScriptedSession]:
    return ScriptedSession


@pytest.fixture
def byte_tokenizer() -> ByteTokenizer:
    return ByteTokenizer()
