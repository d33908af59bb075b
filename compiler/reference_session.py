"""A decoder session over a canonical graph: the oracle that compiled models are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intaglio.compiler.errors import ContextLengthError, OptionError
from intaglio.kernels.choose.selection import likeliest

CACHES = ("key_cache.", "value_cache.")
UPDATED = ".updated"


class GraphRunner(Protocol):
    """What runs a graph: `ReferenceSession` and `OnnxRuntimeSession` both do."""

    def run(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Outputs by name."""


class GraphSession:
    """A `DecoderSession` that runs the canonical decoder `model` by `runner`, a call for every `extend`.

    A model whose logits are of the last position only can `extend`, but not `score` more than one token.
    """

    def __init__(self, model: ir.Model, runner: GraphRunner) -> None:
        self._runner = runner
        self._caches: dict[str, Any] = {
            str(value.name): np.zeros(_sizes(value), np.float32)
            for value in model.graph.inputs
            if str(value.name).startswith(CACHES)
        }
        if not self._caches:
            raise OptionError("session: the graph has no KV cache: normalise it first.")
        self._capacity = int(next(iter(self._caches.values())).shape[2])
        self._vocabulary = _sizes(model.graph.outputs[0])[-1]
        self._position = 0

    @property
    def vocabulary(self) -> int:
        """Number of logits."""
        return self._vocabulary

    @property
    def capacity(self) -> int:
        """Most tokens the cache holds."""
        return self._capacity

    @property
    def position(self) -> int:
        """Tokens in the cache now."""
        return self._position

    def reset(self, position: int = 0) -> None:
        """Forget all tokens from `position` on."""
        if not 0 <= position <= self._position:
            raise OptionError(
                f"reset: position {position} is not among 0 … {self._position}, the tokens there are."
            )
        self._position = position

    def extend(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append `tokens`; float32 logits `[vocabulary]` after the last one. Raises `ContextLengthError`."""
        last: NDArray[np.float32] = self._run(tokens)[-1]
        return last

    def best(self, tokens: Sequence[int], count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Append `tokens`; the `count` likeliest next ones, likeliest first, with their logits."""
        logits = self.extend(tokens)
        found = likeliest(logits, count)
        return found, logits[found]

    def score(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append `tokens`; logits `[len(tokens), vocabulary]` after each. Raises `ContextLengthError`."""
        logits = self._run(tokens)
        if len(logits) != len(tokens):
            raise OptionError(
                "score: this graph gives logits of the last position only: normalise it without that."
            )
        return logits

    def _run(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        if not tokens or self._position + len(tokens) > self._capacity:
            raise ContextLengthError(
                f"session: {len(tokens)} tokens at position {self._position} are not 1 … "
                f"{self._capacity - self._position}, what fits into the context of {self._capacity}."
            )
        inputs = {"input_ids": np.array([tokens], np.int64), "position": np.array([self._position], np.int64)}
        outputs = self._runner.run({**inputs, **self._caches})
        self._caches = {name: outputs[name + UPDATED] for name in self._caches}
        self._position += len(tokens)
        logits: NDArray[np.float32] = np.asarray(outputs["logits"], np.float32)[0]
        return logits


def _sizes(value: ir.Value) -> list[int]:
    """The shape of `value`; symbolic sizes, such as the batch, are 1."""
    assert value.shape is not None, f"{value.name} has no shape"
    return [size if isinstance(size, int) else 1 for size in value.shape]
