"""What every front end returns: the graph, and what belongs to the model beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import onnx_ir as ir  # half a second that reading a tokenizer does without


class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def end_tokens(self) -> frozenset[int]:
        """Ids that end a generation."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; special tokens written out in it are recognised."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of `tokens`, special tokens left out."""

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        """The prompt for `messages` by the model's chat template; raises `OptionError` without one."""

    def to_json(self) -> str:
        """Everything needed to build this tokenizer again."""


@dataclass(frozen=True)
class DecoderArchitecture:
    """The sizes of a llama-shaped decoder."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int  # longest sequence in tokens the model was trained for
    rope_base: float
    epsilon: float  # of the RMS norms
    tied_embedding: bool


@dataclass(frozen=True)
class Traced:
    """A model in standard ONNX ops, with its tokenizer and sizes."""

    model: ir.Model
    architecture: DecoderArchitecture
    tokenizer: Tokenizer | None
    source: Path
    source_bytes: int
