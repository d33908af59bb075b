"""What every front end returns: the graph, and what belongs to the model beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from intaglio.compiler.frontends.call_signature import CallSignature

if TYPE_CHECKING:
    import onnx_ir as ir  # half a second that reading a tokenizer does without

    from intaglio.passes.normalize.expected import Expected


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
    """The sizes of a causal decoder that is compiled with a KV cache."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int  # longest sequence in tokens the model was trained for
    tied_embedding: bool
    family: str = "llama"  # the name its authors give the architecture, such as "gemma3_text"


@dataclass(frozen=True)
class Source:
    """Where a model came from."""

    name: str  # a path, or for models in memory what they are: "torch.nn.Module Sequential"
    bytes: int  # of the files, or of the parameters
    path: Path | None = None  # of the file or folder


@dataclass(frozen=True)
class Traced:
    """A model in standard ONNX ops, with what belongs to it."""

    model: ir.Model
    architecture: DecoderArchitecture | None  # none: any other graph, called with inputs of its own
    tokenizer: Tokenizer | None
    source: Source
    expected: Expected | None = None  # what normalisation must find
    call: CallSignature | None = None  # how arguments become the graph's inputs; none: inputs by name
