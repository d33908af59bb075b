"""The vocabulary of a GGUF file: tokens, their kinds, and the special ones; lengths and ids are checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken

from intaglio.compiler.errors import ModelFileError
from intaglio.compiler.frontends.gguf.metadata import Value

PREFIX = "tokenizer.ggml"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
SPECIAL_IDS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
END_IDS = ("eos", "eot", "eom")
KEEP_SPACES = frozenset(["<s>", "<unk>", "<|endoftext|>"])  # Phi-3's tokens that take no spaces after them
END_TEXTS = frozenset(  # tokens that end a turn whether or not the file names them; some converters forget
    ["<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>", "<|eom_id|>"]
)


@dataclass(frozen=True)
class Vocabulary:
    """What a file says of its tokens."""

    metadata: Mapping[str, Value]
    tokens: list[str]
    kinds: NDArray[np.int64]  # one of the constants above per token; others mean ordinary text

    def added(self, *, take_spaces: bool) -> list[AddedToken]:
        """Control and user-defined tokens: found in a text before anything is cut.

        Those that are special, the former and all that end a generation, are not shown.

        With `take_spaces`, white space that follows one belongs to it (Phi-3).
        """
        ends = self.end_tokens
        return [
            AddedToken(
                self.tokens[index],
                normalized=False,
                special=bool(self.kinds[index] == CONTROL) or index in ends,
                rstrip=take_spaces and self.tokens[index] not in KEEP_SPACES,
            )
            for index in self._marked
        ]

    @property
    def end_tokens(self) -> frozenset[int]:
        """Ids that end a generation."""
        named = {found for name in END_IDS if (found := self.special_id(name)) is not None}
        return frozenset(named | {index for index in self._marked if self.tokens[index] in END_TEXTS})

    @property
    def _marked(self) -> list[int]:
        marked: list[int] = np.flatnonzero(np.isin(self.kinds, (CONTROL, USER_DEFINED))).tolist()
        return marked

    @property
    def special_tokens(self) -> dict[str, str]:
        """Texts of the special tokens by the names that chat templates use."""
        ids = {name: self.special_id(key) for name, key in SPECIAL_IDS.items()}
        return {name: self.tokens[index] for name, index in ids.items() if index is not None}

    def special_id(self, name: str) -> int | None:
        """The id that the file gives for `name`, e.g. `bos`."""
        value = self.metadata.get(f"{PREFIX}.{name}_token_id")
        if value is None:
            return None
        if type(value) is not int or not 0 <= value < len(self.tokens):
            raise broken(f"{name}_token_id", f"{value!r} is no token of {len(self.tokens)}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """A truth value of the tokenizer."""
        value = self.metadata.get(f"{PREFIX}.{name}", default)
        if not isinstance(value, bool):
            raise broken(name, f"{value!r} is no truth value")
        return value

    def text(self, name: str) -> str | None:
        """A string of the tokenizer."""
        value = self.metadata.get(f"{PREFIX}.{name}")
        if value is not None and not isinstance(value, str):
            raise broken(name, f"{type(value).__name__} instead of text")
        return value

    def begin_token(self, default: bool) -> int | None:
        """The id to put before every text, if any."""
        return self.special_id("bos") if self.flag("add_bos_token", default) else None


def read_vocabulary(metadata: Mapping[str, Value]) -> Vocabulary | None:
    """The vocabulary, None where the file has no tokens; `ModelFileError` where it contradicts itself."""
    tokens = metadata.get(f"{PREFIX}.tokens")
    if tokens is None:
        return None
    if not isinstance(tokens, list):
        raise broken("tokens", "it is no list of texts")
    kinds = numbers(metadata, "token_type", len(tokens))
    if kinds is None:
        kinds = np.full(len(tokens), NORMAL)
    return Vocabulary(metadata, tokens, kinds.astype(np.int64))


def numbers(metadata: Mapping[str, Value], name: str, count: int) -> NDArray[np.generic] | None:
    """One number per token, or None where the file has none."""
    values = metadata.get(f"{PREFIX}.{name}")
    if values is None:
        return None
    if not isinstance(values, np.ndarray) or len(values) != count:
        raise broken(name, f"it does not give one number for each of {count} tokens")
    return values


def broken(name: str, problem: str) -> ModelFileError:
    """The error for a key of the tokenizer that makes no sense."""
    return ModelFileError(f"gguf: metadata {PREFIX}.{name}: {problem}. Convert the model again.")
